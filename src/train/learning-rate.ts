import { TuneError } from "../errors.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { takeTurn } from "../runtime/device-turns.ts";
import { layoutOf, storeOf } from "./data/index.ts";
import { chooseObjective } from "./objectives/index.ts";
import type { RunOptions } from "./run.ts";
import { timetableOf } from "./timetable.ts";
import { openTrainer } from "./trainer.ts";

/** One update of a search. */
export interface RatePoint {
  readonly learningRate: number;
  readonly loss: number;
  /** The mean of the losses so far, the last ones weighing most. */
  readonly smoothed: number;
}

/** What a search has found. */
export interface RateSearch {
  readonly points: readonly RatePoint[];
  /** Where the smoothed loss falls fastest: what to train with. */
  readonly suggested: number;
  /** Where it is lowest: already too large. */
  readonly lowest: number;
}

/** What is searched, and how: rates rise by equal factors from `from` to `to` in `steps` updates. */
export interface RateSearchOptions
  extends Pick<
    RunOptions,
    | "device"
    | "model"
    | "choice"
    | "targets"
    | "objective"
    | "settings"
    | "train"
    | "mixture"
    | "padId"
    | "signal"
    | "admit"
  > {
  readonly from: number;
  readonly to: number;
  readonly steps: number;
  readonly onPoint?: (point: RatePoint, step: number) => void;
}

/** Share of the smoothed loss that an update keeps, and how much above its lowest it ends a search. */
const [kept, worse] = [0.9, 3];

/**
 * Find a learning rate: train for a few dozen updates while the rate rises exponentially, and see where the loss falls
 * fastest and where it breaks out. Smith 2017 (arXiv 1506.01186, §3.3), with the rates, the smoothing and the end of the
 * search of fastai's `lr_find`. Nothing is written, and what was trained is thrown away.
 * @throws {TuneError} `bad-option`; `not-finite-loss` when not even the first updates are finite.
 */
export function searchLearningRate(options: RateSearchOptions): Promise<RateSearch> {
  return takeTurn(options.device, () => searchAlone(options), options.signal);
}

async function searchAlone(options: RateSearchOptions): Promise<RateSearch> {
  const { device, model, settings, from, to, steps, padId } = options;
  if (!(from > 0 && to > from && Number.isSafeInteger(steps) && steps >= 10)) {
    throw new TuneError("bad-option", `A search from ${from} to ${to} in ${steps} updates finds nothing.`, {
      at: "learning-rate search",
      fix: "let the rate rise from a small one to a large one in ten updates at least",
    });
  }
  const objective = options.objective ?? chooseObjective(undefined);
  const examples = await storeOf(options.train);
  const mixture = options.mixture ?? [{ count: examples.count, weight: 1 }];
  const { schedule } = timetableOf(mixture, settings);
  const { accumulationSteps } = settings;
  const trainer = await openTrainer(device, model, {
    choice: options.choice,
    targets: options.targets,
    objective,
    optimizer: chooseOptimizer(settings.optimizer, settings.optimizerOptions),
    maxGradNorm: settings.maxGradNorm,
    memory: settings.memory,
    baseWeights: settings.baseWeights,
    accumulates: accumulationSteps > 1,
    seed: settings.seed,
    steps,
    ...(options.admit ? { admit: options.admit } : {}),
  });
  const points: RatePoint[] = [];
  let [mean, lowest] = [0, Number.POSITIVE_INFINITY];
  try {
    for (let step = 1; step <= steps && !options.signal?.aborted; step++) {
      const learningRate = from * (to / from) ** ((step - 1) / (steps - 1));
      const batches = await Promise.all(
        Array.from({ length: accumulationSteps }, async (_, i) => {
          const { indices } = schedule.at((step - 1) * accumulationSteps + i);
          return objective.objective.batch(await examples.at(indices), layoutOf(model, padId));
        }),
      );
      let loss: number;
      try {
        ({ loss } = await trainer.step(step, batches, learningRate));
      } catch (error) {
        if (points.length > 1 && error instanceof TuneError && error.code === "not-finite-loss") break; // too large by far
        throw error;
      }
      mean = kept * mean + (1 - kept) * loss;
      const smoothed = mean / (1 - kept ** step);
      const point = { learningRate, loss, smoothed };
      points.push(point);
      options.onPoint?.(point, step);
      lowest = Math.min(lowest, smoothed);
      if (step > steps / 10 && smoothed > worse * lowest) break;
    }
  } finally {
    await trainer.close();
  }
  return { points, ...readSearch(points) };
}

/** Where the smoothed loss falls fastest over equal factors of the rate, before it is lowest; and where that is. */
export function readSearch(points: readonly RatePoint[]): Pick<RateSearch, "suggested" | "lowest"> {
  const losses = points.map(({ smoothed }) => smoothed);
  const end = losses.indexOf(Math.min(...losses));
  // A slope over several updates each way: the difference of two of them is mostly noise.
  const reach = Math.max(1, Math.round(points.length / 20));
  let [steepest, at] = [0, end];
  for (let i = reach; i + reach <= end; i++) {
    const slope = (losses[i + reach] as number) - (losses[i - reach] as number); // both within the points
    if (slope < steepest) [steepest, at] = [slope, i];
  }
  const rateAt = (i: number): number => points[Math.max(0, i)]?.learningRate ?? Number.NaN;
  return { suggested: rateAt(at), lowest: rateAt(end) };
}
