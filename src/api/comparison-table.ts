import type { MethodConfig } from "../methods/index.ts";

/** What a run of a comparison came to. */
export type RunOutcome =
  | { readonly diverged: true }
  | {
      readonly diverged: false;
      readonly updates: number;
      /** The lowest. */
      readonly validationLoss: number;
      /** `loss`, what the task or objective measures besides, and `forgetting` and `intruders` where they were asked for. */
      readonly measures: Readonly<Record<string, number>>;
      /** Bytes of the tensors of what is left: the adapter, or the whole model. */
      readonly storedBytes: number;
      /** Median milliseconds of an update; absent when the run was resumed at its end. */
      readonly stepMs?: number;
      /** The most that the process took during the run above what it took before. */
      readonly peakBytes: number;
    };

/** A mean over seeds, and how far they are apart. */
export interface Spread {
  readonly mean: number;
  /** The sample's standard deviation; absent for one seed. */
  readonly deviation?: number;
}

/** A method's rate with all of its runs. */
export interface RateRow {
  readonly learningRate: number;
  /** Over its runs that are done; absent where there is none, or one diverged. */
  readonly validationLoss?: Spread;
  readonly diverged: number;
}

/** A method of a comparison. */
export interface ComparedRow {
  readonly name: string;
  readonly method: string;
  /** Its options, all of them. */
  readonly options: MethodConfig;
  readonly trainedParameters: number;
  /** Bytes of the forward pass kept for the backward pass, for a packed row of 512 tokens, or 128 where rows are not packed. */
  readonly savedBytes: number;
  /** What a plan says that the run takes at its peak, above the process. Bytes. */
  readonly plannedPeakBytes: number;
  /** Median over its runs, as what follows absent where none is done. */
  readonly storedBytes?: number;
  /** Median over the updates of its quickest run: what else the machine does only ever adds. */
  readonly stepMs?: number;
  /** Median over its runs. */
  readonly peakBytes?: number;
  readonly rates: readonly RateRow[];
  /** The rate with the lowest mean validation loss; absent where no rate has a run that is done. */
  readonly best?: {
    readonly learningRate: number;
    readonly validationLoss: Spread;
    readonly measures: Readonly<Record<string, Spread>>;
    /** It is the lowest or the highest rate of several: a better one may lie beyond. */
    readonly atEdge: boolean;
  };
}

type Described = Pick<
  ComparedRow,
  "name" | "method" | "options" | "trainedParameters" | "savedBytes" | "plannedPeakBytes"
> & { readonly rates: readonly number[] };

interface Done {
  readonly name: string;
  readonly learningRate: number;
  readonly outcome: RunOutcome;
}

/** A method's row, from those of the runs that are its own. */
export function tabulate({ rates, ...described }: Described, runs: readonly Done[]): ComparedRow {
  const own = runs.filter(({ name }) => name === described.name);
  const whole = own.flatMap(({ outcome, learningRate }) => (outcome.diverged ? [] : [{ ...outcome, learningRate }]));
  const rows = rates.map((learningRate): RateRow => {
    const diverged = own.filter((run) => run.learningRate === learningRate && run.outcome.diverged).length;
    const losses = whole.filter((run) => run.learningRate === learningRate).map((run) => run.validationLoss);
    return {
      learningRate,
      ...(losses.length > 0 && diverged === 0 ? { validationLoss: spreadOf(losses) } : {}),
      diverged,
    };
  });
  const seeds = (rate: RateRow): number => own.filter((run) => run.learningRate === rate.learningRate).length;
  const most = Math.max(...rows.map(seeds));
  // While seeds are missing, a rate is only held against those that have as many.
  const best = rows
    .flatMap((rate) => (rate.validationLoss && seeds(rate) === most ? [{ ...rate, loss: rate.validationLoss }] : []))
    .reduce<{ readonly learningRate: number; readonly loss: Spread } | undefined>(
      (low, rate) => (low === undefined || rate.loss.mean < low.loss.mean ? rate : low),
      undefined,
    );
  const costs = {
    storedBytes: median(whole.map(({ storedBytes }) => storedBytes)),
    stepMs: whole.flatMap(({ stepMs }) => (stepMs === undefined ? [] : [stepMs])).toSorted((a, b) => a - b)[0],
    peakBytes: median(whole.map(({ peakBytes }) => peakBytes)),
  };
  return {
    ...described,
    ...Object.fromEntries(Object.entries(costs).filter(([, value]) => value !== undefined)),
    rates: rows,
    ...(best ? { best: bestOf(best) } : {}),
  };

  function bestOf({ learningRate, loss }: { learningRate: number; loss: Spread }): NonNullable<ComparedRow["best"]> {
    const chosen = whole.filter((run) => run.learningRate === learningRate);
    const names = new Set(chosen.flatMap(({ measures }) => Object.keys(measures)));
    const measures = [...names].map((name) => [name, spreadOf(chosen.flatMap((run) => run.measures[name] ?? []))]);
    const atEdge = rates.length > 1 && (learningRate === rates[0] || learningRate === rates.at(-1));
    return { learningRate, validationLoss: loss, measures: Object.fromEntries(measures), atEdge };
  }
}

/** Mean and standard deviation of a sample. */
export function spreadOf(values: readonly number[]): Spread {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length < 2) return { mean };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}

function median(values: readonly number[]): number | undefined {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
