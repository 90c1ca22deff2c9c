import { basename } from "node:path";
import type { Command } from "commander";
import { TuneError } from "../errors.ts";
import type {
  ComparedMethod,
  ComparedRow,
  CompareEvent,
  ComparisonResult,
  Spread,
  Storage,
  Transport,
} from "../index.ts";
import { drawComparison } from "./compare-picture.ts";
import { describeReading, readBaseText, readingOf, readingRecord } from "./data.ts";
import { connectClient, connectCoordinator } from "./federate-engine.ts";
import { deviceOptions, loadFlags, memoryOptions, realNumber, wholeNumber, withIgnoreMemory } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { startsOver, withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress, duration } from "./progress.ts";
import { headOf, loadTuningData, privacySets, type TuningFlags, tuningChoice, withTuning } from "./tuning.ts";

interface CompareFlags extends TuningFlags {
  readonly methods: readonly string[];
  readonly rates?: readonly string[];
  readonly seeds: readonly number[];
  readonly testData?: string;
  readonly baseText?: string;
  readonly output: string;
  readonly resume?: boolean;
  readonly workers?: string;
  readonly federation?: string;
  readonly invite?: string;
  readonly silence: number;
}

const examples = `
Examples:
  $ scion compare -m ./model -d train.jsonl --validation 0.1 --methods lora,dora,paca
  $ scion compare -m ./model -d train.jsonl --validation-data dev.jsonl --test-data test.jsonl --seeds 0,1,2,3,4
  $ scion compare … --rates 1e-3,3e-3 paca=3e-3,1e-2,3e-2   for all methods, and for one
  $ scion compare … --output runs/mine --resume             go on after an interruption
  $ scion compare … --workers nats://myhost:4222 --federation fed          hand the runs out to other machines
  $ scion compare … --workers nats://myhost:4222 --invite ana.json         on such a machine: make runs

Takes the options of tune for every run. Each method sweeps its rates with every seed; the rate with the lowest mean
validation loss counts. --rank and --alpha are those of LoRA; other methods with a rank get the same rank and the same
alpha / rank. The output folder gets comparison.json, comparison.md, comparison.svg, and a folder a run with its adapter.
With --workers the runs are made by as many machines as join: the same command with the same options, data and model, and
an invitation of scion federate invite. A run whose machine is gone goes to another; the table is the same.`;

/** `scion compare` */
export async function define(command: Command): Promise<void> {
  withIgnoreMemory(
    withReplace(
      await withTuning(
        command.description("Tune by several methods, rates and seeds, and set side by side what each gives"),
        { without: ["method", "learningRate", "seed", ...privacySets] },
      ),
      startsOver,
    ),
  )
    .option("--methods <names>", "what to compare", words, ["lora", "dora", "adalora", "paca"])
    .option(
      "--rates <lists...>",
      "learning rates: 1e-3,3e-3 for all, paca=3e-3,1e-2 for one; four of each method's own",
    )
    .option("--seeds <numbers>", "each decides initial values, order and dropout of a run", seedNumbers, [0, 1, 2])
    .option("--test-data <file>", "what the chosen runs are measured on; the validation rows unless given")
    .option(
      "--base-text <file>",
      "measure forgetting of this, and intruder dimensions, after each run (docs/diagnosis.md)",
    )
    .option("-o, --output <folder>", "where runs and results go", "runs/compare")
    .option("--resume", "go on after the last run that is done, and within the one that was cut off")
    .option("--workers <servers>", "have other machines make the runs: nats://host:port, several separated by commas")
    .option("--federation <folder>", "with --workers: hand runs out, as scion federate create set it up")
    .option(
      "--silence <seconds>",
      "with --federation: after so long without a word a run goes to another",
      realNumber,
      30,
    )
    .option("--invite <file>", "with --workers: make runs, as the one whom scion federate invite named")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(
  asked: CompareFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  const { checkOutput, checkTuning, compare, loadData } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  const flags: CompareFlags = { ...asked, seed: asked.seeds[0] ?? 0 }; // of the split, and of a new head
  checkWorkers(flags, given);
  const { methods: early } = await methodsOf(flags, given);
  for (const { method, methodOptions = {} } of early) checkTuning({ method, methodOptions });
  const { model } = await loadFlags(flags, output, headOf(flags));
  const { storage } = model.platform;
  await checkOutput(storage, flags.output, "comparison");
  const data = await loadTuningData(model, flags, output, flags.output);
  const length = flags.maxLength === undefined ? {} : { maxLength: flags.maxLength };
  const test =
    flags.testData === undefined
      ? undefined
      : await loadData(model, flags.testData, { ...readingOf(flags), ...length });
  if (test) {
    describeReading(test, output);
    output.record({ kind: "test-data", ...readingRecord(test) });
  }
  const text = await readBaseText(model, flags.baseText, flags, output);
  if (text) output.record({ kind: "base-text", ...readingRecord(text) });
  const transport = await connectWorkers(flags, storage);
  const stop = listenForInterrupt(output, "Saving after this update");
  try {
    const { methods, ...matched } = await methodsOf(flags, given, data.kind);
    const {
      method: _method,
      methodOptions: _own,
      learningRate: _rate,
      seed: _seed,
      ...shared
    } = await tuningChoice(flags, given, data.kind, flags.methods);
    const rates = ratesFor(flags.rates);
    const result = await compare(model, data, {
      ...shared,
      ...{ methods, ...matched, test: test?.train ?? [], baseText: text?.train ?? [] },
      ...{ output: flags.output, seeds: flags.seeds, resume: flags.resume === true },
      ...(rates.all === undefined ? {} : { learningRates: rates.all }),
      ...(transport ? { workers: { transport, silenceMs: 1000 * flags.silence } } : {}),
      ...memoryOptions(flags),
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watch(output),
    });
    if (flags.invite !== undefined) {
      output.record({ kind: "end", made: result.done, total: result.total });
      output.say("", `Made ${count(result.done)} of the comparison's ${count(result.total)} runs.`);
      return stop.signal.aborted ? exitCodes.interrupted : exitCodes.done;
    }
    const title = `${basename(flags.model)} on ${flags.data.map((file) => basename(file)).join(", ")}`;
    const table = tableOf(result);
    await storage.write(`${flags.output}/comparison.md`, markdown(title, table, result));
    await storage.write(`${flags.output}/comparison.svg`, drawComparison(title, result));
    describe(table, result, output);
    output.say("", `Wrote ${flags.output}/comparison.json, comparison.md and comparison.svg.`);
    output.record({ kind: "end", ...result });
    if (result.done === result.total) return exitCodes.done;
    output.say(strong(`${result.done} of ${result.total} runs are done; --resume goes on from here.`));
    return exitCodes.interrupted;
  } finally {
    stop.release();
    await transport?.close();
    if ("close" in data) await data.close();
  }
}

/** @throws {TuneError} `bad-option` for flags of workers that do not go together. */
function checkWorkers({ workers, federation, invite, silence }: CompareFlags, given: Given): void {
  const roles = [federation, invite].filter((one) => one !== undefined).length;
  const problems = [
    ...(workers !== undefined && roles === 0
      ? ["--workers needs --federation (hand runs out) or --invite (make them)."]
      : []),
    ...(workers === undefined && roles > 0 ? ["--federation and --invite do nothing without --workers."] : []),
    ...(given.has("silence") && federation === undefined ? ["--silence does nothing without --federation."] : []),
    ...(silence > 0 ? [] : [`--silence is ${silence}, but it must be above 0.`]),
    ...(roles === 2 ? ["--federation and --invite do not go together: a machine hands runs out, or makes them."] : []),
  ];
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, { at: "scion compare", fix: "give --workers with one of the two" });
}

/** Where runs are handed out or made, if other machines are asked. */
async function connectWorkers(
  { workers, federation, invite, output }: CompareFlags,
  storage: Storage,
): Promise<Transport | undefined> {
  if (federation !== undefined) return (await connectCoordinator(storage, federation, workers)).transport;
  if (invite === undefined) return undefined;
  const { claimOutput } = await import("../index.ts");
  await claimOutput(storage, `${output}.worker`, "federation-client"); // this worker's key is written there
  return connectClient(storage, `${output}.worker`, invite, workers);
}

/** The methods that the flags name: those with a rank are matched, and take no rank or alpha as it is given. */
async function methodsOf(
  flags: CompareFlags,
  given: Given,
  kind?: Parameters<typeof tuningChoice>[2],
): Promise<{ readonly methods: readonly ComparedMethod[]; readonly rank?: number; readonly scale?: number }> {
  const { methods, TuneError } = await import("../index.ts");
  const { by } = ratesFor(flags.rates);
  const strangers = Object.keys(by).filter((name) => !flags.methods.includes(name));
  if (strangers.length > 0) {
    throw new TuneError("bad-option", `There are rates for ${strangers.join(", ")}, which is not compared.`, {
      at: "--rates",
      fix: `name one of ${flags.methods.join(", ")}`,
    });
  }
  const compared = await Promise.all(
    flags.methods.map(async (method): Promise<ComparedMethod> => {
      const { rank, alpha, ...others } =
        (await tuningChoice({ ...flags, method }, given, kind, flags.methods)).methodOptions ?? {};
      const unmatched = methods.get(method)?.matched ? {} : { rank, alpha };
      const own = Object.entries({ ...unmatched, ...others }).filter(([, value]) => value !== undefined);
      const learningRates = by[method];
      const methodOptions = Object.fromEntries(own) as NonNullable<ComparedMethod["methodOptions"]>; // none undefined
      return { method, methodOptions, ...(learningRates ? { learningRates } : {}) };
    }),
  );
  const rank = Number(flags["rank"] ?? 8);
  return {
    methods: compared,
    ...(given.has("rank") ? { rank } : {}),
    ...(given.has("alpha") ? { scale: Number(flags["alpha"]) / rank } : {}),
  };
}

function watch(output: Output): (event: CompareEvent) => void {
  const progress = createProgress();
  const started = performance.now();
  let made = 0;
  return (event) => {
    output.record(event);
    const { run, index, total } = event;
    const name = `${index + 1}/${total}  ${run.name}, rate ${rateText(run.learningRate)}, seed ${run.seed}`;
    if (event.kind === "training") {
      const { event: step } = event;
      if (step.kind !== "step") return;
      const perRun = (performance.now() - started) / (made + step.step / step.steps);
      const left = made === 0 ? "" : `  about ${duration(perRun * (total - index - step.step / step.steps))} left`;
      progress.update(`${name}: ${step.step}/${step.steps}  loss ${step.loss.toFixed(4)}${left}`);
      return;
    }
    progress.clear();
    if (event.kind === "handed-out") return output.say(`${name}: given to ${event.worker}`);
    if (event.kind === "taken-back") return output.say(`${name}: taken back from ${event.worker} (${event.why})`);
    if (!event.readBack) made += 1;
    const { outcome } = event;
    const said = outcome.diverged ? "diverged" : `validation loss ${outcome.validationLoss.toFixed(4)}`;
    output.say(`${name}: ${said}${event.readBack ? " (read back)" : ""}${event.worker ? ` (${event.worker})` : ""}`);
  };
}

type Column = readonly [title: string, cell: (row: ComparedRow) => string];

/** Heads and rows. */
function tableOf({ rows, tested }: ComparisonResult): readonly (readonly string[])[] {
  const names = [...new Set(rows.flatMap(({ best }) => Object.keys(best?.measures ?? {})))];
  const megabytes = (bytes: number | undefined): string => (bytes === undefined ? "" : (bytes / 1e6).toFixed(2));
  const columns: readonly Column[] = [
    ["method", ({ name }) => name],
    ["trained parameters", ({ trainedParameters }) => count(trainedParameters)],
    ["stored kB", ({ storedBytes }) => (storedBytes === undefined ? "" : count(storedBytes / 1e3))],
    ["ms an update", ({ stepMs }) => stepMs?.toFixed(1) ?? ""],
    ["saved MB", ({ savedBytes }) => megabytes(savedBytes)],
    ["planned peak MB", ({ plannedPeakBytes }) => count(plannedPeakBytes / 1e6)],
    ["process grew by MB", ({ peakBytes }) => (peakBytes === undefined ? "" : count(peakBytes / 1e6))],
    ["best rate", ({ best }) => (best ? `${rateText(best.learningRate)}${best.atEdge ? " *" : ""}` : "none")],
    ["validation loss", ({ best }) => (best ? spreadText(best.validationLoss) : "")],
    ...names
      .filter((name) => tested || name !== "loss") // else it is the validation loss once more
      .map((name): Column => [tested ? `test ${name}` : name, ({ best }) => spreadText(best?.measures[name])]),
  ];
  return [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))];
}

/** What the table does not say by itself. */
function notes({ rows, seeds, tested }: ComparisonResult): readonly string[] {
  const edges = rows.filter(({ best }) => best?.atEdge).map(({ name }) => name);
  const numbers = new Set(rows.map(({ rates }) => rates.length));
  const diverged = rows.flatMap(({ name, rates }) =>
    rates
      .filter((rate) => rate.diverged > 0)
      .map((rate) => `${name} at ${rateText(rate.learningRate)} (${rate.diverged})`),
  );
  return [
    `Means ± standard deviations over ${seeds.length} seed${seeds.length === 1 ? "" : "s"}, at the rate with the lowest mean validation loss.${tested ? "" : " They are of the rows that the rate was chosen on."}`,
    ...(edges.length > 0 ? [`* At the edge of its rates, a better one may lie beyond: ${edges.join(", ")}.`] : []),
    ...(numbers.size > 1 ? ["Not every method sweeps as many rates as the others."] : []),
    ...(diverged.length > 0 ? [`Runs that diverged: ${diverged.join(", ")}.`] : []),
  ];
}

function describe(table: readonly (readonly string[])[], result: ComparisonResult, output: Output): void {
  const widths = table[0]?.map((_, i) => Math.max(...table.map((row) => row[i]?.length ?? 0))) ?? [];
  output.say("");
  for (const row of table)
    output.say(
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
        .join("  ")
        .trimEnd(),
    );
  output.say("", ...notes(result));
}

function markdown(
  title: string,
  [head = [], ...rows]: readonly (readonly string[])[],
  result: ComparisonResult,
): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const sweeps = result.rows.map(({ name, rates }) =>
    line([
      name,
      rates
        .map(({ learningRate, validationLoss, diverged }) => {
          const loss = validationLoss ? spreadText(validationLoss) : diverged > 0 ? "diverged" : "not done";
          return `${rateText(learningRate)}: ${loss}`;
        })
        .join("; "),
    ]),
  );
  return [
    `# ${title}`,
    "",
    line(head),
    line(head.map((_, i) => (i === 0 ? "---" : "---:"))),
    ...rows.map(line),
    "",
    ...notes(result).flatMap((note) => [note.replace(/^\*/, "\\*"), ""]),
    "| method | validation loss by learning rate |",
    "| --- | --- |",
    ...sweeps,
    "",
    "![](comparison.svg)",
    "",
  ].join("\n");
}

function spreadText(spread: Spread | undefined): string {
  if (spread === undefined) return "";
  const { mean, deviation } = spread;
  const digits = Math.abs(mean) >= 100 ? 1 : 4;
  return `${mean.toFixed(digits)}${deviation === undefined ? "" : ` ± ${deviation.toFixed(digits)}`}`;
}

/** `3e-4`. */
function rateText(rate: number): string {
  return rate.toExponential();
}

function words(text: string): readonly string[] {
  return text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
}

function seedNumbers(text: string): readonly number[] {
  return words(text).map((word) => wholeNumber(word));
}

/** `1e-3,3e-3` is for all methods, `paca=1e-2` for one. */
function ratesFor(lists: readonly string[] = []): {
  readonly all?: readonly number[];
  readonly by: Readonly<Record<string, readonly number[]>>;
} {
  const parsed = lists.map((list) => {
    const [, name, rates = list] = /^([^=]+)=(.*)$/.exec(list) ?? [];
    return { name, rates: words(rates).map((word) => realNumber(word)) };
  });
  const all = parsed.filter(({ name }) => name === undefined).flatMap(({ rates }) => rates);
  const by = parsed.flatMap(({ name, rates }) => (name === undefined ? [] : [[name, rates] as const]));
  return { ...(all.length > 0 ? { all } : {}), by: Object.fromEntries(by) };
}
