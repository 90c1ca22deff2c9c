import type { TrainSettings } from "../src/train/settings.ts";

/** A configuration that is planned, then measured. */
export interface PlanCase {
  readonly shape: string;
  readonly method: string;
  readonly methodOptions: Readonly<Record<string, number>>;
  readonly settings: Partial<TrainSettings>;
  /** The shortest and the longest example, in tokens. */
  readonly lengths: readonly [number, number];
  /** Examples held back. */
  readonly validation: number;
  readonly threads: number;
}
