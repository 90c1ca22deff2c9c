import { TuneError } from "../errors.ts";

/** How a matrix is looked at. `exact`: two whole decompositions. `rotated`: in the coordinates of the base's own. */
export const diagnosisMethods = ["auto", "exact", "rotated", "certified"] as const;

/** See {@link diagnosisMethods}. `certified`: leading vectors alone, and bounds on everything else. */
export type DiagnosisMethod = (typeof diagnosisMethods)[number];

/** What counts as an intruder, and how it is found. */
export interface DiagnosisSettings {
  /** Leading singular vectors of the tuned matrix that are looked at. */
  readonly k: number;
  /** A vector is an intruder when no vector of the base has an absolute cosine of at least this with it. */
  readonly eps: number;
  /** Which vectors of a weight [out, in]: `left` live in its outputs (as in the paper's code), `right` in its inputs. */
  readonly side: "left" | "right";
  readonly method: DiagnosisMethod;
  /** Take fused projections (queries, keys and values in one matrix) as they are stored instead of apart. */
  readonly fused: boolean;
}

/** What is looked at unless told otherwise: the paper's k and eps. */
export const diagnosisDefaults: DiagnosisSettings = { k: 10, eps: 0.5, side: "left", method: "auto", fused: false };

/** The largest absolute cosine that a random direction of n dimensions has with one of n orthonormal vectors, about. */
export function chanceLevel(n: number): number {
  return n < 2 ? 1 : Math.min(1, Math.sqrt((2 * Math.log(n)) / n));
}

/**
 * Fill in defaults and check. `sizes` are the lengths of the vectors that will be compared.
 * @throws {TuneError} `bad-option` listing every problem.
 */
export function resolveDiagnosis(given: Partial<DiagnosisSettings>, sizes: readonly number[] = []): DiagnosisSettings {
  const settings = { ...diagnosisDefaults, ...given };
  const { k, eps, side, method } = settings;
  const problems: string[] = [];
  if (!Number.isSafeInteger(k) || k < 1) problems.push(`k is ${k}, but it must be a whole number from 1`);
  if (!(eps > 0 && eps <= 1)) {
    const level = sizes.length > 0 ? Math.max(...sizes.map(chanceLevel)) : undefined;
    const chance =
      level === undefined
        ? ""
        : `; here, a random direction reaches about ${level.toFixed(2)} by chance, so above that`;
    const reason =
      eps > 1 ? "no cosine is above 1, so everything would count" : "no cosine is below 0, so nothing would count";
    problems.push(`eps is ${eps}, but it must be above 0 and at most 1 (${reason}${chance})`);
  }
  if (side !== "left" && side !== "right") problems.push(`side is "${side}", but it must be left or right`);
  if (!diagnosisMethods.includes(method)) {
    problems.push(`method is "${method}", but it must be ${diagnosisMethods.join(", ")}`);
  }
  if (problems.length === 0) return settings;
  throw new TuneError("bad-option", problems, { at: "diagnosis", fix: "k 10 and eps 0.5 are the paper's" });
}
