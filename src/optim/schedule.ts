/** The shapes a learning rate can follow after its warm-up. */
export const schedules: Readonly<Record<"constant" | "linear" | "cosine", (progress: number) => number>> = {
  constant: () => 1,
  linear: (progress) => 1 - progress,
  cosine: (progress) => 0.5 * (1 + Math.cos(Math.PI * progress)),
};

/** Name of a schedule. */
export type Schedule = keyof typeof schedules;

/**
 * The learning rate of a step, as transformers' schedulers give it. `step` counts from 0, `warmupSteps` rise linearly
 * from 0 to `peak`, and the shape runs over the rest up to `totalSteps`.
 */
export function learningRateAt(
  step: number,
  options: {
    readonly peak: number;
    readonly schedule: Schedule;
    readonly warmupSteps: number;
    readonly totalSteps: number;
  },
): number {
  const { peak, schedule, warmupSteps, totalSteps } = options;
  if (step < warmupSteps) return (peak * step) / Math.max(1, warmupSteps);
  const progress = (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps);
  return peak * Math.max(0, schedules[schedule](Math.min(1, progress)));
}
