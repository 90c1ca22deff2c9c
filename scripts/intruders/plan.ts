import type { TuningChoice } from "../../src/index.ts";

/** One run of the experiments: a way of tuning, named for tables and pictures. */
export interface Run {
  readonly name: string;
  /** Runs of a family have one colour. */
  readonly family: "full" | "LoRA" | "PaCA";
  readonly choice: TuningChoice;
}

/** What alpha·eta is held at over ranks, as the paper holds it. */
const total = 0.016;

const lora = (rank: number, alpha: number, learningRate: number): Run => ({
  name: `LoRA r=${rank}, α=${alpha}, η=${learningRate.toExponential(2).replace(/\.?0*e/, "e")}`,
  family: "LoRA",
  choice: { method: "lora", methodOptions: { rank, alpha }, targetModules: "all-linear", learningRate },
});

const full = (learningRate: number): Run => ({
  name: `full, η=${learningRate.toExponential()}`,
  family: "full",
  choice: { method: "full", learningRate },
});

const paca = (rank: number, learningRate: number): Run => ({
  name: `PaCA r=${rank}, η=${learningRate.toExponential()}`,
  family: "PaCA",
  choice: { method: "paca", methodOptions: { rank }, targetModules: "all-linear", learningRate },
});

/** I2: alpha = 2r and alpha·eta constant over ranks. */
export const ranks: readonly Run[] = [1, 8, 16, 64].map((rank) => lora(rank, 2 * rank, total / (2 * rank)));

/** I5: the same alpha·eta at rank 64 with a fixed alpha. */
export const fixedAlpha: Run = lora(64, 8, total / 8);

/** I4: what the intervention is tried on; the first two are I2's, the last learns faster. */
export const mended: readonly Run[] = [lora(1, 2, total / 2), lora(8, 16, 4e-3)];

/** I6: two tasks in order. */
export const sequential: readonly Run[] = [lora(8, 16, 4e-3), full(1e-3)];

/** I2, I3 and I5: every run, each once. */
export const runs: readonly Run[] = [
  full(3e-4),
  full(1e-3),
  full(3e-3),
  ...ranks,
  lora(1, 2, 3e-2),
  lora(8, 16, 4e-3),
  lora(8, 16, 1e-2),
  lora(64, 128, 5e-4),
  lora(64, 128, 2e-3),
  lora(64, 128, 5e-3),
  fixedAlpha,
  paca(8, 2e-3),
  paca(16, 6e-3),
  paca(64, 3e-3),
];

/** What every run has in common. */
export const shared: TuningChoice = {
  maxSteps: 150,
  batchSize: 8,
  schedule: "linear",
  warmup: 0.06,
  optimizerOptions: { weightDecay: 0 },
  checkpointEvery: 0,
  seed: 42,
};
