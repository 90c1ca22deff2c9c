import type { Command } from "commander";
import { TuneError } from "../errors.ts";
import type {
  FederationCompareEvent,
  FederationComparison,
  FederationEvent,
  FederationResult,
  LoadedClients,
  LoadedModel,
} from "../index.ts";
import { describeReading, readingOf, readingRecord } from "./data.ts";
import { checkRounds, type RoundsFlags, roundsChoice, strategyOptions, withRounds } from "./federation.ts";
import { deviceOptions, loadFlags, memoryOptions, realNumber, wholeNumber, withIgnoreMemory } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { platformOf, startsOver, withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress } from "./progress.ts";
import { headOf } from "./tuning.ts";

interface SimulateFlags extends RoundsFlags {
  readonly clients?: number;
  readonly split: string;
  readonly compare?: readonly string[];
  readonly rates?: readonly number[];
  readonly epsilons?: readonly number[];
  readonly seeds?: readonly number[];
  readonly output: string;
  readonly resume?: boolean;
  readonly tensorboard: boolean;
}

const examples = `
Examples:
  $ scion federate simulate -m ./model -d rows.jsonl --validation 0.1 --clients 20 --split dirichlet:0.5
  $ scion federate simulate -m ./model -d rows.jsonl --validation 0.1 --split by:domain --method ffa --rounds 30
  $ scion federate simulate -m ./model -d ana.jsonl ben.jsonl --split files --validation-data dev.jsonl
  $ scion federate simulate … --compare fedsvd,ffa,ffa-orth,fedavg --rates 0.05,0.15,0.5 --seeds 0,1,2
  $ scion federate simulate … --output runs/mine --resume     go on after an interruption

The whole federation in one process, without a server: all clients share one compiled step. The output folder gets
state.json (from which --resume goes on), metrics.jsonl by round and client, events for TensorBoard, report.html with
pictures, and adapter/ (PEFT), which scion chat, eval and export take. With --compare: comparison.json, comparison.md,
report.html and a folder a federation.`;

/** `scion federate simulate` */
export async function define(command: Command): Promise<void> {
  await withRounds(command.description("Tune one adapter by many clients, all of them in this process"));
  withIgnoreMemory(withReplace(command, startsOver))
    .option(
      "--clients <n>",
      "how many clients; with by: the largest groups, with files as many as there are",
      wholeNumber,
    )
    .option("--split <how>", "how rows are shared out: dirichlet:0.5 (by label), by:<column>, files, or iid", "iid")
    .option("--compare <methods>", "run these methods at every rate and seed, and compare", words)
    .option("--rates <numbers>", "learning rates of a comparison: 0.05,0.15,0.5", numbers)
    .option("--epsilons <numbers>", "privacy budgets of a comparison: inf,6,3,1 (inf is without privacy)", budgets)
    .option("--seeds <numbers>", "seeds of a comparison: 0,1,2", numbers)
    .option("-o, --output <folder>", "where state and results go", "runs/federate")
    .option("--no-tensorboard", "write no events for TensorBoard (tensorboard --logdir runs)")
    .option("--resume", "go on from the output folder's state")
    .addHelpText("after", examples);
}

function budgets(text: string): readonly number[] {
  return words(text).map((word) => (word === "inf" ? Number.POSITIVE_INFINITY : realNumber(word)));
}

function words(text: string): readonly string[] {
  return text.split(",").map((word) => word.trim());
}

function numbers(text: string): readonly number[] {
  return words(text).map(realNumber);
}

/** Run it. */
export async function run(
  asked: SimulateFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  const {
    checkOutput,
    compareFederations,
    comparisonTable,
    exportModel,
    federationPage,
    loadClients,
    simulateFederation,
  } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  refuseMixed(asked, given);
  const compared = asked.compare ?? [asked.method];
  const flags: SimulateFlags = { ...asked, method: "lora" };
  await checkRounds(asked, given, compared);
  const { storage } = platformOf(flags);
  await checkOutput(storage, flags.output, asked.compare ? "federation-comparison" : "federation");
  const { model } = await loadFlags(flags, output, headOf(flags));
  const data = await readClients(model, flags, { loadClients }, output);
  const choice = {
    ...(await roundsChoice(asked, given, data.kind)),
    output: flags.output,
    resume: flags.resume === true,
    ...(flags["replace"] === true ? { replace: true } : {}),
    ...memoryOptions(flags),
    deviceOptions: deviceOptions(flags),
  };
  const stop = listenForInterrupt(output, "Stopping after this update; the state is that of the last round");
  try {
    if (asked.compare) {
      const { learningRate: _rate, seed: _seed, ...shared } = choice;
      const strategies = await Promise.all(
        asked.compare.map(async (strategy) => ({ strategy, ...(await strategyOptions(strategy, asked, given)) })),
      );
      const result = await compareFederations(model, data, {
        ...shared,
        strategies,
        learningRates: asked.rates ?? [],
        ...(asked.seeds ? { seeds: asked.seeds } : {}),
        ...(asked.epsilons ? { epsilons: asked.epsilons } : {}),
        signal: stop.signal,
        onEvent: watchComparison(output),
      });
      return endComparison(result, comparisonTable(result), flags.output, output)
        ? exitCodes.done
        : exitCodes.interrupted;
    }
    const result = await simulateFederation(model, data, {
      ...choice,
      strategy: asked.method,
      ...(await strategyOptions(asked.method, asked, given)),
      tensorboard: flags.tensorboard,
      signal: stop.signal,
      onEvent: watch(output),
    });
    const clients = Object.fromEntries(data.clients.map(({ name, train }) => [name, train.length]));
    await storage.write(`${flags.output}/report.html`, federationPage(result, clients));
    await exportModel(model, "peft", `${flags.output}/adapter`, {
      adapter: result.adapter,
      deviceOptions: deviceOptions(flags),
    });
    await storage.write(
      `${flags.output}/run.json`,
      `${JSON.stringify({ ...result.plan, base: undefined, split: flags.split, data: flags.data, clients }, null, 2)}\n`,
    );
    end(result, flags, output);
    return result.ended === "interrupted" ? exitCodes.interrupted : exitCodes.done;
  } finally {
    stop.release();
  }
}

/** @throws {TuneError} `bad-option` for flags of a comparison without one, and of one run with a comparison. */
function refuseMixed(flags: SimulateFlags, given: Given): void {
  const problems = flags.compare
    ? [
        ...(given.has("method") ? ["--method would do nothing: --compare names the methods."] : []),
        ...(given.has("learningRate") ? ["--learning-rate would do nothing: --rates are compared."] : []),
        ...(flags.epsilons && given.has("dpEpsilon")
          ? ["--dp-epsilon would do nothing: --epsilons are compared."]
          : []),
        ...(given.has("seed") ? ["--seed would do nothing: --seeds are compared."] : []),
        ...(given.has("tensorboard") ? ["--no-tensorboard does nothing here: a comparison always writes events."] : []),
        ...(flags.rates === undefined
          ? ["--rates is missing: methods are only compared at the best of several learning rates each."]
          : []),
      ]
    : (["rates", "epsilons", "seeds"] as const).flatMap((name) =>
        flags[name] === undefined ? [] : [`--${name} would do nothing without --compare.`],
      );
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, {
    at: "options",
    fix: "leave these options out, or give what they need",
  });
}

async function readClients(
  model: LoadedModel,
  flags: SimulateFlags,
  { loadClients }: Pick<typeof import("../index.ts"), "loadClients">,
  output: Output,
): Promise<LoadedClients> {
  const data = await loadClients(model, flags.data, {
    split: flags.split,
    ...(flags.clients === undefined ? {} : { clients: flags.clients }),
    seed: Number(flags["seed"] ?? 0),
    ...readingOf(flags),
    ...(flags.validation === undefined ? {} : { validation: flags.validation }),
    ...(flags.validationData === undefined ? {} : { validationPath: flags.validationData }),
    ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
  });
  const { clients, validation, leftOut } = data;
  const sizes = clients.map(({ train }) => train.length).sort((a, b) => a - b);
  for (const read of data.read) {
    describeReading(read, output);
    output.record({ kind: "data", format: read.format, ...read.report, ...readingRecord(read) });
  }
  output.say(
    `${count(clients.length)} clients with ${count(sizes[0] ?? 0)} to ${count(sizes.at(-1) ?? 0)} examples, median ${count(sizes[Math.floor(sizes.length / 2)] ?? 0)} (${flags.split}).`,
  );
  const left = Object.entries(leftOut);
  if (left.length > 0) {
    const rows = left.reduce((sum, [, size]) => sum + size, 0);
    output.say(`Smaller groups that no client has: ${count(left.length)}, with ${count(rows)} examples.`);
  }
  output.say(
    validation.length > 0
      ? `${count(validation.length)} examples are held back for validation.`
      : "Nothing is held back for validation, so rounds are not measured (--validation).",
  );
  output.record({
    ...{ kind: "clients", split: flags.split, validation: validation.length, leftOut },
    clients: Object.fromEntries(clients.map(({ name, train }) => [name, train.length])),
  });
  return data;
}

function said(measures: Readonly<Record<string, number>>): string {
  return Object.entries(measures)
    .map(([name, value]) => `${name} ${value.toFixed(4)}`)
    .join(", ");
}

function watch(output: Output): (event: FederationEvent) => void {
  const progress = createProgress();
  return (event) => {
    output.record(event);
    if (event.kind === "start") {
      const { strategy, config, rounds, localSteps, batchSize, learningRate, training } = event.plan;
      const options = Object.entries(config).map(([name, value]) => `${name} ${String(value)}`);
      const { privacy } = event.plan;
      if (privacy) {
        const delta = Object.entries(event.clients).filter(([, size]) => privacy.delta >= 1 / size);
        output.say(
          `Private: ${privacy.epsilon > 0 ? `epsilon ${privacy.epsilon}` : `noise ${privacy.noiseMultiplier}`}, delta ${privacy.delta}, clip ${privacy.clip}; each client's noise is made for ${privacy.maxRounds} rounds.`,
          ...(delta.length > 0
            ? [
                `Warning: delta is not below one over the examples of ${delta.length} clients: whole examples may be given away.`,
              ]
            : []),
        );
      }
      output.say(
        `${strong(strategy)}${options.length > 0 ? ` (${options.join(", ")})` : ""}: ${count(rounds)} rounds of ${count(localSteps)} updates, ${count(batchSize)} examples each, rate ${learningRate} (${String(training["optimizer"])})`,
        `Each client trains ${count(event.trainedParameters)} values.${event.firstRound > 1 ? ` Going on with round ${count(event.firstRound)}.` : ""}`,
      );
    } else if (event.kind === "training") {
      progress.update(`round ${event.round + 1}: ${event.done} of ${event.of} clients`);
    } else if (event.kind === "round") {
      progress.clear();
      const { round, measures, clients, refused, declined } = event.summary;
      // The losses of private clients stay with them.
      const losses = Object.values(clients).flatMap(({ loss }) => (Number.isFinite(loss) ? [loss] : []));
      const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
      const parts = [
        ...(losses.length > 0 ? [`training loss ${mean.toFixed(4)}`] : []),
        ...(Object.keys(measures).length > 0 ? [`validation ${said(measures)}`] : []),
      ];
      const absent = Object.keys({ ...refused, ...declined }).length;
      output.say(
        `round ${round + 1} of ${event.rounds}: ${parts.join("; ")}${absent > 0 ? `; without ${absent} clients` : ""}`,
      );
    } else progress.clear();
  };
}

function watchComparison(output: Output): (event: FederationCompareEvent) => void {
  const progress = createProgress();
  return (event) => {
    output.record(event);
    const { name, learningRate, seed } = event.run;
    const what = `${event.index + 1}/${event.total} ${name}, rate ${learningRate}, seed ${seed}`;
    if (event.kind === "done") {
      progress.clear();
      output.say(`${what}: ${event.outcome.finished ? said(event.outcome.measures) : "failed"}`);
    } else if (event.event.kind === "round") {
      progress.update(`${what}: round ${event.event.summary.round + 1} of ${event.event.rounds}`);
    }
  };
}

function end(
  { ended, rounds, history, why, plan, privacy }: FederationResult,
  flags: SimulateFlags,
  output: Output,
): void {
  const saved = `${flags.output}/adapter`;
  output.record({
    kind: "saved",
    ended,
    rounds,
    measures: history.at(-1)?.measures ?? {},
    saved,
    ...(privacy ? { privacy } : {}),
  });
  const ends = {
    finished: "Done",
    interrupted: "Interrupted; --resume goes on from here",
    "too-few-clients": "Stopped for want of clients",
  };
  output.say(
    `${strong(ends[ended])} after round ${rounds} of ${plan.rounds}. Saved ${saved} and ${flags.output}/report.html.`,
    ...(why ? [why] : []),
    ...(privacy ? [spentText(privacy)] : []),
    "",
    "Next:",
    `  scion eval --model ${flags.model} --adapter ${saved} --data heldout.jsonl`,
    `  scion export --model ${flags.model} --adapter ${saved} --to transformers.js --output ${flags.output}/web`,
  );
}

function spentText(privacy: NonNullable<FederationResult["privacy"]>): string {
  const epsilons = privacy.map(({ epsilon }) => epsilon);
  const noises = privacy.map(({ noiseMultiplier }) => noiseMultiplier);
  return `Each client's examples are protected by (epsilon, delta)-differential privacy: spent ${Math.min(...epsilons).toFixed(2)} to ${Math.max(...epsilons).toFixed(2)} at delta ${privacy[0]?.delta}, with noise ${Math.min(...noises).toFixed(3)} to ${Math.max(...noises).toFixed(3)} (see docs/federated.md).`;
}

/** Whether all is done. */
function endComparison(result: FederationComparison, table: string, folder: string, output: Output): boolean {
  output.say("", table, `Wrote ${folder}/comparison.json, comparison.md and report.html.`);
  output.record({ kind: "end", ...result });
  return result.done === result.total;
}
