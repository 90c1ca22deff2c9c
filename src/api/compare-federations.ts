import { TuneError } from "../errors.ts";
import type { StrategyConfig } from "../federated/index.ts";
import { guardOutputs } from "../io/outputs/index.ts";
import { joinPath } from "../io/storage.ts";
import { checkNames, type NamesOf } from "../options.ts";
import { type Spread, spreadOf } from "./comparison-table.ts";
import { checkDevice } from "./device-names.ts";
import {
  type FederationChoice,
  type FederationEvent,
  insideFederation,
  type SettledFederation,
  type SimulateOptions,
  settleFederation,
  simulateNames,
  simulateWith,
} from "./federate.ts";
import { comparisonPage } from "./federation-report.ts";
import { type FederationTrainer, openFederationTrainer } from "./federation-trainer.ts";
import type { LoadedClients } from "./load-clients.ts";
import type { LoadedModel } from "./load-model.ts";
import { admission } from "./memory.ts";
import { checkOutput, claimOutput } from "./outputs.ts";

/** One of the federated methods that are compared. */
export interface ComparedStrategy {
  /** A name in `strategies`. */
  readonly strategy: string;
  /** What the table calls it; the strategy's name unless given. */
  readonly name?: string;
  readonly strategyOptions?: Partial<StrategyConfig>;
}

/** What is compared, and how each federation is run. */
export interface CompareFederationsOptions
  extends Omit<
    SimulateOptions,
    "strategy" | "strategyOptions" | "learningRate" | "seed" | "tensorboard" | "device" | "onEvent" | "output"
  > {
  readonly strategies: readonly (string | ComparedStrategy)[];
  /** Rates that every method sweeps: a comparison at one rate says nothing, as A's length alone changes what a rate does. */
  readonly learningRates: readonly number[];
  /** Budgets that every method is run with; infinite is without privacy. One run without them, or with `dpEpsilon`, unless given. */
  readonly epsilons?: readonly number[];
  /** Every federation is run with each; 0, 1 and 2 unless given. */
  readonly seeds?: readonly number[];
  /** Folder of the results: a folder a federation in it, `comparison.json`, `comparison.md` and `report.html`. */
  readonly output: string;
  readonly onEvent?: (event: FederationCompareEvent) => void;
}

const comparedNames: NamesOf<ComparedStrategy> = { strategy: true, name: true, strategyOptions: true };
const compareNames: NamesOf<CompareFederationsOptions> = (() => {
  const { strategy, strategyOptions, learningRate, seed, tensorboard, device, ...own } = simulateNames;
  return { ...own, strategies: true, learningRates: true, epsilons: true, seeds: true } as const;
})();

/** A federation of a comparison. */
export interface ComparedFederation {
  readonly name: string;
  readonly learningRate: number;
  readonly seed: number;
}

/** What happens meanwhile. `index` counts the federations from 0. */
export type FederationCompareEvent = {
  readonly run: ComparedFederation;
  readonly index: number;
  readonly total: number;
} & (
  | { readonly kind: "federation"; readonly event: FederationEvent }
  | { readonly kind: "done"; readonly outcome: FederationOutcome }
);

/** What a federation of a comparison came to. */
export interface FederationOutcome extends ComparedFederation {
  /** Whether it ran all its rounds, and its losses were finite. */
  readonly finished: boolean;
  /** Of the last round. */
  readonly measures: Readonly<Record<string, number>>;
  /** Of every round, by which curves are drawn. */
  readonly rounds: readonly Readonly<Record<string, number>>[];
  readonly bytes: { readonly up: number; readonly down: number };
}

/** A rate of a method with all of its federations. */
export interface FederationRateRow {
  readonly learningRate: number;
  /** Of the last round, over seeds; absent where one did not finish. */
  readonly measures?: Readonly<Record<string, Spread>>;
  readonly failed: number;
}

/** A method of a comparison. */
export interface FederationRow {
  readonly name: string;
  readonly strategy: string;
  readonly options: StrategyConfig;
  /** The budget; infinite without privacy, absent where budgets were not compared. */
  readonly epsilon?: number;
  readonly trainedParameters: number;
  readonly rates: readonly FederationRateRow[];
  /** The rate with the lowest mean loss. */
  readonly best?: {
    readonly learningRate: number;
    readonly measures: Readonly<Record<string, Spread>>;
    /** It is the lowest or the highest rate of several: a better one may lie beyond. */
    readonly atEdge: boolean;
  };
}

/** What a comparison of federations found. */
export interface FederationComparison {
  readonly rows: readonly FederationRow[];
  readonly runs: readonly FederationOutcome[];
  /** Federations that are done, of how many. */
  readonly done: number;
  readonly total: number;
  readonly seeds: readonly number[];
}

/**
 * Run federations of the same clients by several methods, rates and seeds, and set side by side what each came to at its best
 * rate. Those that train the same factors share a compiled step.
 * @throws {TuneError} `bad-option` listing every problem, `run-exists`, and as `simulateFederation`.
 */
export async function compareFederations(
  model: LoadedModel,
  data: LoadedClients,
  options: CompareFederationsOptions,
): Promise<FederationComparison> {
  checkNames(options, compareNames, "compareFederations", insideFederation());
  checkDevice(options);
  const {
    strategies,
    learningRates,
    epsilons,
    seeds = [0, 1, 2],
    output,
    resume = false,
    onEvent,
    ...others
  } = options;
  const { signal, deviceOptions, ignoreMemory = false, replace, inputs = [], ...shared } = others;
  const named = strategies.map((given) => (typeof given === "string" ? { strategy: given } : given));
  const entries = named.flatMap((entry): readonly (ComparedStrategy & { readonly epsilon?: number })[] =>
    (epsilons ?? [undefined]).map((epsilon) =>
      epsilon === undefined
        ? entry
        : { ...entry, epsilon, name: `${entry.name ?? entry.strategy}-eps-${epsilon === Infinity ? "inf" : epsilon}` },
    ),
  );
  for (const entry of named) checkNames(entry, comparedNames, "strategies of a comparison");
  refuse({ entries, learningRates, epsilons, seeds, validation: data.validation.length });
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...data.files, ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const settled: (SettledFederation & {
    readonly name: string;
    readonly given: FederationChoice;
    readonly epsilon?: number;
  })[] = [];
  for (const { strategy, strategyOptions, epsilon, name = strategy } of entries) {
    const { dpEpsilon, dpNoise, dpDelta, dpClip, dpAccountant, dpRounds, ...plain } = shared;
    const isPlain = epsilon === Infinity;
    const given: FederationChoice = {
      ...(isPlain ? plain : shared),
      ...(epsilon === undefined || isPlain ? {} : { dpEpsilon: epsilon }),
      strategy,
      ...(strategyOptions ? { strategyOptions } : {}),
      learningRate: learningRates[0] ?? 0,
    };
    settled.push({
      name,
      given,
      ...(epsilon === undefined ? {} : { epsilon }),
      ...(await settleFederation(model, data, given, { deviceOptions })),
    });
  }
  await checkOutput(storage, output, "federation-comparison");
  const kept = joinPath(output, "comparison.json");
  const lock = await storage.lock(joinPath(output, "federation-comparison"));
  const device = await model.platform.openDevice(deviceOptions);
  const trainers = new Map<string, FederationTrainer>();
  try {
    if (!resume && replace !== true && (await storage.sizeBytes(kept)) !== undefined) {
      throw new TuneError("run-exists", "This folder holds a comparison already.", {
        at: kept,
        fix: "go on with it (resume), or choose another output folder",
      });
    }
    const names = settled.map(({ name }) => `${name}/`);
    await claimOutput(storage, output, "federation-comparison", { names, fresh: !resume });
    const runs = seeds.flatMap((seed) =>
      learningRates.flatMap((learningRate) =>
        settled.map((entry) => ({ entry, name: entry.name, learningRate, seed })),
      ),
    );
    const outcomes: FederationOutcome[] = [];
    const trained = new Map<string, number>();
    const result = (): FederationComparison => ({
      rows: settled.map(({ name, plan, epsilon }) => ({
        ...(epsilon === undefined ? {} : { epsilon }),
        ...{ name, strategy: plan.strategy, options: plan.config, trainedParameters: trained.get(name) ?? 0 },
        ...rowOf(
          outcomes.filter((run) => run.name === name),
          learningRates,
        ),
      })),
      ...{ runs: outcomes, done: outcomes.length, total: runs.length, seeds },
    });
    const write = async (): Promise<void> => {
      const found = result();
      await storage.write(kept, `${JSON.stringify(found, null, 2)}\n`);
      await storage.write(joinPath(output, "comparison.md"), comparisonTable(found));
      await storage.write(joinPath(output, "report.html"), comparisonPage(found));
    };
    await write();
    for (const [index, { entry, name, learningRate, seed }] of runs.entries()) {
      if (signal?.aborted) break;
      const at = { run: { name, learningRate, seed }, index, total: runs.length };
      const { run, plan } = await settleFederation(
        model,
        data,
        { ...entry.given, learningRate, seed },
        { deviceOptions },
      );
      const isPrivate = plan.privacy !== undefined;
      const key = JSON.stringify([run.choice.method.name, run.choice.config, isPrivate]);
      const trainer =
        trainers.get(key) ??
        (await openFederationTrainer(
          device,
          model,
          run,
          ignoreMemory ? undefined : admission(model, run, device),
          isPrivate,
        ));
      trainers.set(key, trainer);
      trained.set(name, trainer.trainedParameters);
      const path = joinPath(output, name, `${learningRate.toExponential()}-seed-${seed}`);
      const done = (await storage.sizeBytes(joinPath(path, "state.json"))) !== undefined;
      const found = await simulateWith(trainer, { run, plan }, data, {
        ...{ folder: { storage, path }, tensorboard: true, resume: resume && done },
        ...(signal ? { signal } : {}),
        onEvent: (event) => onEvent?.({ kind: "federation", event, ...at }),
      });
      if (found.ended === "interrupted") break;
      const rounds = found.history.map(({ measures }) => measures);
      const last = rounds.at(-1) ?? {};
      const outcome: FederationOutcome = {
        ...{ name, learningRate, seed, rounds: [found.base, ...rounds], measures: last },
        finished: found.ended === "finished" && Number.isFinite(last["loss"]),
        bytes: {
          up: found.history.reduce((sum, { bytes }) => sum + bytes.up, 0),
          down: found.history.reduce((sum, { bytes }) => sum + bytes.down, 0),
        },
      };
      outcomes.push(outcome);
      await write();
      onEvent?.({ kind: "done", outcome, ...at });
    }
    return result();
  } finally {
    for (const trainer of trainers.values()) await trainer.close();
    await device.close();
    await lock.release();
  }
}

function refuse({
  entries,
  learningRates,
  epsilons = [1],
  seeds,
  validation,
}: {
  readonly entries: readonly ComparedStrategy[];
  readonly learningRates: readonly number[];
  readonly epsilons: readonly number[] | undefined;
  readonly seeds: readonly number[];
  readonly validation: number;
}): void {
  const problems: string[] = [];
  const names = entries.map(({ name, strategy }) => name ?? strategy);
  if (entries.length === 0) problems.push("there is no method to compare");
  for (const name of names) if (!/^[\w+][\w.+-]*$/.test(name)) problems.push(`"${name}" cannot name a folder`);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) problems.push(`"${twice}" is there twice: name one of them otherwise`);
  const list = <T>(name: string, values: readonly T[], ok: (value: T) => boolean, rule: string): void => {
    if (values.length === 0 || !values.every(ok) || new Set(values).size !== values.length) {
      problems.push(`${name} are ${values.join(", ") || "none"}, but they must be ${rule}, each another`);
    }
  };
  list("learningRates", learningRates, (rate) => rate > 0 && Number.isFinite(rate), "above 0");
  list("epsilons", epsilons, (epsilon) => epsilon > 0, "above 0 (infinite is without privacy)");
  list("seeds", seeds, (seed) => Number.isSafeInteger(seed) && seed >= 0, "whole numbers from 0");
  if (validation === 0) problems.push("no rows are held back for validation, which rates are chosen by");
  if (problems.length > 0) throw new TuneError("bad-option", problems, { at: "compareFederations" });
}

function rowOf(
  runs: readonly FederationOutcome[],
  learningRates: readonly number[],
): Pick<FederationRow, "rates" | "best"> {
  const rates = learningRates
    .toSorted((a, b) => a - b)
    .map((learningRate): FederationRateRow => {
      const own = runs.filter((run) => run.learningRate === learningRate);
      const failed = own.filter(({ finished }) => !finished).length;
      const names = Object.keys(own[0]?.measures ?? {});
      const measures = names.map((name) => [name, spreadOf(own.map((run) => run.measures[name] ?? Number.NaN))]);
      return {
        learningRate,
        failed,
        ...(own.length > 0 && failed === 0 ? { measures: Object.fromEntries(measures) } : {}),
      };
    });
  const whole = rates.flatMap(({ learningRate, measures }) =>
    measures?.["loss"] ? [{ learningRate, measures, loss: measures["loss"].mean }] : [],
  );
  const best = whole.toSorted((a, b) => a.loss - b.loss)[0];
  if (!best) return { rates };
  const { learningRate, measures } = best;
  const atEdge =
    rates.length > 1 && (learningRate === rates[0]?.learningRate || learningRate === rates.at(-1)?.learningRate);
  return { rates, best: { learningRate, measures, atEdge } };
}

/** The table as Markdown. */
export function comparisonTable({ rows, done, total, seeds }: FederationComparison): string {
  const names = [...new Set(rows.flatMap(({ best }) => Object.keys(best?.measures ?? {})))];
  const cell = (spread: Spread | undefined): string =>
    spread === undefined
      ? "–"
      : `${spread.mean.toFixed(4)}${spread.deviation === undefined ? "" : ` ± ${spread.deviation.toFixed(4)}`}`;
  const lines = rows.map(
    ({ name, best, trainedParameters }) =>
      `| ${name} | ${best ? `${best.learningRate.toExponential()}${best.atEdge ? " (edge)" : ""}` : "–"} | ${names.map((one) => cell(best?.measures[one])).join(" | ")} | ${trainedParameters} |`,
  );
  return [
    `| method | best rate | ${names.join(" | ")} | trained values |`,
    `| --- | --- | ${names.map(() => "---").join(" | ")} | --- |`,
    ...lines,
    "",
    `Means over ${seeds.length} seed${seeds.length === 1 ? "" : "s"} ± standard deviation, of the last round, each method at the rate with the lowest loss. ${done} of ${total} federations are done.`,
    "",
  ].join("\n");
}
