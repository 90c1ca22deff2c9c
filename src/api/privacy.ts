import { checkNames, checkWord, type NamesOf } from "../options.ts";
import {
  type Accountant,
  accountants,
  type Calibration,
  calibrateNoise,
  prvEpsilon,
  rdpEpsilon,
  type Spend,
} from "../privacy/index.ts";

/** What {@link privacySpent} is asked. */
export interface PrivacySpentOptions {
  /** All steps that the same examples went through, each kind with its sampling rate and noise. */
  readonly spends: readonly Spend[];
  /** The probability with which the guarantee may fail; 1e-5 unless given. Well below one over the number of examples. */
  readonly delta?: number;
}

/** What steps cost: they are (epsilon, delta)-differentially private for either of the first two numbers. */
export interface PrivacySpent {
  /** By Rényi differential privacy, as Opacus's RDP accountant. */
  readonly rdp: number;
  /** By the distribution of the privacy loss, as Opacus's PRV accountant: the upper end of its error interval. */
  readonly prv: number;
  /** The order at which `rdp` was found. */
  readonly order: number;
  /** The lower end of the second accountant's interval: epsilon is not below that. */
  readonly lower: number;
  readonly delta: number;
}

const spentNames: NamesOf<PrivacySpentOptions> = { spends: true, delta: true };
const spendNames: NamesOf<Spend> = { samplingRate: true, noiseMultiplier: true, steps: true };

/**
 * What differentially private steps cost in all. One example more or less is what the guarantee is about, and batches are drawn by
 * Poisson sampling.
 * @throws {TuneError} `bad-option` for numbers that are no steps; `delta-too-small`.
 */
export function privacySpent(options: PrivacySpentOptions): PrivacySpent {
  checkNames(options, spentNames, "privacySpent");
  const { spends, delta = defaultDelta } = options;
  for (const spend of spends) checkNames(spend, { ...spendNames, id: true, notPrivate: true }, "privacySpent, spends");
  const { epsilon: rdp, order } = rdpEpsilon(spends, delta);
  const { epsilon: prv, lower } = prvEpsilon(spends, delta);
  return { rdp, prv, order, lower, delta };
}

/** What {@link noiseFor} is asked. */
export interface NoiseForOptions {
  /** What may be spent. */
  readonly epsilon: number;
  /** 1e-5 unless given. */
  readonly delta?: number;
  readonly samplingRate: number;
  readonly steps: number;
  /** Who says what is spent; `prv` unless given. */
  readonly accountant?: Accountant;
  /** What the same examples have spent before. */
  readonly before?: readonly Spend[];
}

const noiseNames: NamesOf<NoiseForOptions> = {
  epsilon: true,
  delta: true,
  samplingRate: true,
  steps: true,
  accountant: true,
  before: true,
};

/**
 * The least noise multiplier with which steps stay within a budget.
 * @throws {TuneError} `bad-option` for numbers that are no budget; `budget-too-small` when no noise is enough.
 */
export function noiseFor(options: NoiseForOptions): number {
  checkNames(options, noiseNames, "noiseFor");
  checkWord("accountant", options.accountant, Object.keys(accountants), "noiseFor");
  const asked: Calibration = { delta: defaultDelta, accountant: "prv", ...options };
  return calibrateNoise(asked);
}

/** Delta where none is given. */
export const defaultDelta = 1e-5;
