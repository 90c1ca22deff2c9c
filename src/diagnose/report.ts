import type { DiagnosisSettings } from "./settings.ts";
import type { Spectrum } from "./spectrum.ts";
import type { UpdateMeasures } from "./update.ts";

/** What tuning did to one matrix. */
export interface MatrixDiagnosis {
  /** The module, and the part of it where several maps are fused. */
  readonly name: string;
  readonly module: string;
  /** [out, in] */
  readonly shape: readonly [rows: number, cols: number];
  readonly method: Spectrum["method"];
  /** Leading singular values after tuning and before. */
  readonly sigma: readonly number[];
  readonly sigmaBase: readonly number[];
  /** The largest absolute cosine of each leading vector with any of the base's that is known. */
  readonly maxCos: readonly number[];
  /** No vector of the base has a larger one; the same as `maxCos` where everything is known. */
  readonly bound: readonly number[];
  /** Leading vectors that are like none of the base's, by their place in the spectrum. */
  readonly intruders: readonly number[];
  /** Those of them whose singular values are almost those of a neighbour: a turn among the two may be all there is. */
  readonly nearTies: readonly number[];
  /** The smallest distance between neighbouring leading singular values of the base. */
  readonly gap: number;
  readonly update: UpdateMeasures & {
    /** Its largest singular value over `gap`; far below 1 nothing can turn far. */
    readonly toGap: number | null;
  };
  /** |U0ᵀU|: leading vectors of the base by rows, of the tuned matrix by columns. */
  readonly similarity: readonly (readonly number[])[];
}

/** Something to know before trusting the counts. */
export interface DiagnosisWarning {
  /**
   * `chance-level`: random directions come as near as eps. `near-ties`: intruders whose singular values are almost equal
   * to a neighbour's. `precision-differs`: the files hold different types, so roundings pass for an update.
   */
  readonly code: "chance-level" | "near-ties" | "precision-differs";
  readonly matrices: readonly string[];
  readonly level?: number;
  readonly detail?: string;
}

/** What tuning did to a model. */
export interface DiagnosisReport extends Omit<DiagnosisSettings, "method"> {
  readonly base: string;
  readonly tuned: string;
  /** SHA-256 over the base's matrices that were compared. */
  readonly baseHash: string;
  readonly matrices: readonly MatrixDiagnosis[];
  /** Intruders in all matrices. */
  readonly total: number;
  readonly perMatrix: number;
  readonly fractionWithIntruder: number;
  readonly warnings: readonly DiagnosisWarning[];
}

/** Add matrices up. */
export function countsOf(
  matrices: readonly MatrixDiagnosis[],
): Pick<DiagnosisReport, "total" | "perMatrix" | "fractionWithIntruder"> {
  const total = matrices.reduce((sum, { intruders }) => sum + intruders.length, 0);
  const count = Math.max(1, matrices.length);
  return {
    total,
    perMatrix: total / count,
    fractionWithIntruder: matrices.filter(({ intruders }) => intruders.length > 0).length / count,
  };
}
