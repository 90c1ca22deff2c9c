import { TuneError } from "../errors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type Accountant, calibrateNoise, keyIn, newKey, prvEpsilon, rdpEpsilon } from "../privacy/index.ts";
import { type LayoutOptions, layoutOf } from "./data/index.ts";
import { chooseObjective } from "./objectives/index.ts";
import type { RunOptions } from "./run.ts";
import type { TrainSettings } from "./settings.ts";
import type { PrivateStep } from "./step.ts";

/** Settings of private training, by which it is asked for. */
export type PrivacySettings = Pick<TrainSettings, "dpEpsilon" | "dpDelta" | "dpClip" | "dpNoise" | "dpAccountant">;

/** Names of {@link PrivacySettings}. */
export const privacyNames: readonly (keyof PrivacySettings)[] = [
  "dpEpsilon",
  "dpDelta",
  "dpClip",
  "dpNoise",
  "dpAccountant",
];

/** The privacy that a run is made with: DP-SGD, in numbers that may be published. */
export interface PrivacyPlan {
  /** What one more or less of does not show: one row of the training data. */
  readonly unit: "example";
  readonly clip: number;
  /** Standard deviation of the noise on a sum of gradients over the clip. */
  readonly noiseMultiplier: number;
  /** The probability with which each example is in a batch. */
  readonly samplingRate: number;
  /** Examples of a batch on average, by which sums are divided. */
  readonly expectedBatch: number;
  /** Updates of the whole run. */
  readonly steps: number;
  readonly delta: number;
  /** The budget that the noise was chosen for, and by which accountant; absent where the noise was given. */
  readonly budget?: { readonly epsilon: number; readonly accountant: Accountant };
  /** What weakens the guarantee, in sentences. */
  readonly warnings: readonly string[];
}

/** What a private run has spent: epsilon at the plan's delta, by both accountants. */
export interface RunPrivacy extends PrivacyPlan {
  /** Updates that were made. */
  readonly made: number;
  readonly spent: { readonly rdp: number; readonly prv: number };
}

/** How a private step is built; undefined where training is not private. */
export function privateStepOf({ dpEpsilon, dpNoise }: PrivacySettings): PrivateStep | undefined {
  return dpEpsilon > 0 || dpNoise > 0 ? {} : undefined;
}

/** How batches of a run are laid out: in a private one, every example is alone. */
export function trainingLayout({
  model,
  padId,
  settings,
}: Pick<RunOptions, "model" | "padId" | "settings">): LayoutOptions {
  return { ...layoutOf(model, padId), ...(privateStepOf(settings) ? { alone: true } : {}) };
}

/** How batches are laid out that are measured with a run's program: alone where the program counts on pairs of rows. */
export function evaluationLayout(run: Pick<RunOptions, "model" | "padId" | "settings" | "objective">): LayoutOptions {
  const { examples } = (run.objective ?? chooseObjective(undefined)).objective;
  return "pairs" in examples ? trainingLayout(run) : layoutOf(run.model, run.padId);
}

/** Settings that decide something: those of privacy only where training is private. */
export function decisiveSettings<Settings extends PrivacySettings>(settings: Settings): Partial<Settings> {
  const { dpEpsilon, dpNoise } = settings;
  const idle = new Set<string>(
    dpEpsilon > 0 ? ["dpNoise"] : dpNoise > 0 ? ["dpEpsilon", "dpAccountant"] : privacyNames,
  );
  return Object.fromEntries(Object.entries(settings).filter(([name]) => !idle.has(name))) as Partial<Settings>; // some of them
}

/**
 * The privacy of a run of `steps` updates over `count` examples; undefined where it is not private. Where a budget is given, the
 * noise is the least that keeps to it.
 * @throws {TuneError} `budget-too-small` where no noise is enough.
 */
export function privacyOf(
  settings: TrainSettings,
  { count, steps }: { readonly count: number; readonly steps: number },
): PrivacyPlan | undefined {
  if (!privateStepOf(settings)) return undefined;
  const { dpEpsilon: epsilon, dpDelta: delta, dpClip: clip, dpNoise, dpAccountant: accountant } = settings;
  const samplingRate = Math.min(1, (settings.batchSize * settings.accumulationSteps) / count);
  const budget = epsilon > 0 ? { epsilon, accountant } : undefined;
  const noiseMultiplier = budget ? calibrateNoise({ ...budget, delta, samplingRate, steps }) : dpNoise;
  const warnings =
    delta >= 1 / count
      ? [
          `delta ${delta} is not below one over the ${count} examples: whole examples may be given away and still keep to it`,
        ]
      : [];
  const expectedBatch = samplingRate * count;
  const numbers = { clip, noiseMultiplier, samplingRate, expectedBatch, steps, delta };
  return { unit: "example", ...numbers, ...(budget ? { budget } : {}), warnings };
}

/**
 * Refuse a plan of attention beside private training: which heads leave it depends on examples, and no noise hides that.
 * @throws {TuneError} `bad-option`.
 */
export function refusePlanned(settings: PrivacySettings): void {
  if (!privateStepOf(settings)) return;
  throw new TuneError(
    "bad-option",
    "Private training cannot attend by a plan: which heads leave it would tell of examples.",
    { at: "attention", fix: "leave attention at exact, or tune without privacy" },
  );
}

/** What `made` updates of a plan have spent. */
export function spentBy(plan: PrivacyPlan, made: number): RunPrivacy {
  const spends = [{ samplingRate: plan.samplingRate, noiseMultiplier: plan.noiseMultiplier, steps: made }];
  const spent = { rdp: rdpEpsilon(spends, plan.delta).epsilon, prv: prvEpsilon(spends, plan.delta).epsilon };
  return { ...plan, made, spent };
}

/** The file of a run folder that keeps the secret of its noise, until the run has finished. */
export const keyFile = "privacy.key";

/**
 * The secret of a run's noise and batches. A run that goes on takes the one that it began with, so that updates that are made
 * again are made of the same noise, and tell nothing new.
 * @throws {TuneError} `no-privacy-key` where a run that has begun lacks it, or it is damaged.
 */
export async function keyOf(
  folder: { readonly storage: Storage; readonly path: string } | undefined,
  { resume, begun }: { readonly resume: boolean; readonly begun: boolean },
): Promise<Uint8Array> {
  if (!folder) return newKey();
  const path = joinPath(folder.path, keyFile);
  const there = (await folder.storage.sizeBytes(path)) !== undefined;
  return keyIn(folder.storage, path, { begun: begun || (resume && there), whose: "this run" });
}

/** Forget the secret of a run that will not go on. */
export async function forgetKey({
  storage,
  path,
}: {
  readonly storage: Storage;
  readonly path: string;
}): Promise<void> {
  await storage.remove(joinPath(path, keyFile));
}
