import type { Command } from "commander";
import type { Adapter, Forgetting, LoadedModel } from "../index.ts";
import { attentionOf } from "./attention.ts";
import { type DataFlags, describeReading, readBaseText, readingOf, readingRecord, withData } from "./data.ts";
import {
  type BaseWeightsFlags,
  deviceOptions,
  heldDefault,
  loadFlags,
  type ModelFlags,
  memoryOptions,
  wholeNumber,
  withBaseWeights,
  withIgnoreMemory,
  withModel,
} from "./model.ts";
import type { Output } from "./output.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress } from "./progress.ts";

interface EvalFlags extends ModelFlags, BaseWeightsFlags, DataFlags {
  readonly data: string;
  readonly maxLength?: number;
  readonly batchSize: number;
  readonly exactMatch: boolean;
  readonly show: number;
  readonly baseText?: string;
  readonly baseModel?: string;
  readonly attention?: string;
}

/** `scion eval` */
export function define(command: Command): void {
  withIgnoreMemory(
    withBaseWeights(withModel(command.description("Measure loss, perplexity and exact match on data")), heldDefault),
  ).requiredOption("-d, --data <file>", "what to measure on, in the forms that tune reads");
  withData(command)
    .option("--max-length <tokens>", "longest sequence; the model's context unless given", wholeNumber)
    .option("--batch-size <n>", "sequences measured side by side", wholeNumber, 8)
    .option("--no-exact-match", "do not answer every example greedily")
    .option("--show <n>", "wrong answers to show", wholeNumber, 3)
    .option("--base-text <file>", "measure forgetting too: the loss on this above the base model's")
    .option("--base-model <folder or id>", "the base, where it is not the model without its adapter")
    .option(
      "--attention <how>",
      "exact (the default), or polynomial:<plan>: the attention.json of scion diagnose --attention or of a run (docs/attention.md)",
    )
    .addHelpText(
      "after",
      `
Examples:
  $ scion eval -m ./model -a runs/tune/adapter -d heldout.jsonl
  $ scion eval -m ./model -d book.txt --json
  $ scion eval -m ./model -a runs/tune/adapter -d task.jsonl --base-text stories.txt

Exact match is measured on conversations and prompts: the last answer is generated greedily and compared as text.`,
    );
}

/** Run it. */
export async function run(flags: EvalFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { evaluate, loadData, TuneError } = await import("../index.ts");
  await refuseIdle(flags, given);
  const { model, adapter } = await loadFlags(flags, output);
  const data = await loadData(model, flags.data, {
    ...readingOf(flags),
    ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
  });
  describeReading(data, output);
  const answers = data.format !== "text" && (data.kind === "sequence" || data.kind === "target");
  const idle = answers ? [] : Object.entries({ show: "--show", exactMatch: "--no-exact-match" });
  const problems = idle.flatMap(([name, flag]) =>
    given.has(name) ? [`${flag} would do nothing: no row of this data has an answer to generate.`] : [],
  );
  if (problems.length > 0) throw new TuneError("bad-option", problems, { at: "scion eval", fix: "leave them out" });
  const progress = createProgress();
  const result = await evaluate(model, data.train, {
    ...(adapter ? { adapter } : {}),
    ...(flags.baseWeights ? { baseWeights: flags.baseWeights } : {}),
    batchSize: flags.batchSize,
    ...memoryOptions(flags),
    ...(flags.attention === undefined
      ? {}
      : { attention: await attentionOf(flags.attention, { storage: model.platform.storage, words: ["exact"] }) }),
    exactMatch: flags.exactMatch && answers,
    deviceOptions: deviceOptions(flags),
    onProgress: (stage, done, total) => progress.update(`${stage}: ${done}/${total}`),
  });
  progress.clear();
  output.say(
    `loss        ${result.loss.toFixed(4)} ${result.perplexity === undefined ? "" : "nats "}over ${count(result.targets)} ${result.meanOver}`,
  );
  if (result.perplexity !== undefined) output.say(`perplexity  ${result.perplexity.toFixed(3)}`);
  if (result.attention) {
    const { polynomial, left } = result.attention;
    output.say(
      `attention   ${polynomial} key heads by a polynomial${left.length > 0 ? `, ${left.length} that outgrew the plan exactly` : ""}`,
    );
    for (const { layer, head, share } of left)
      output.say(`  layer ${layer}, key head ${head}: scores may be ${share.toFixed(1)} times what the plan allows`);
  }
  for (const [name, value] of Object.entries(result.measures)) output.say(`${name.padEnd(11)} ${value.toFixed(4)}`);
  if (result.exactMatch) {
    const { matches, total, answers } = result.exactMatch;
    output.say(`exact match ${((100 * matches) / total).toFixed(1)} % (${matches} of ${total})`);
    for (const { line, expected, given } of answers.filter((answer) => !answer.matches).slice(0, flags.show)) {
      output.say(`  line ${line}`, `    expected ${expected}`, `    given    ${given}`);
    }
  }
  const forgetting = await forgettingOf(flags, { model, adapter }, output);
  output.record({ ...result, ...forgetting, data: readingRecord(data) });
  return 0;
}

/** @throws {TuneError} `bad-option` for options that would do nothing beside the others. */
async function refuseIdle(flags: EvalFlags, given: Given): Promise<void> {
  const { TuneError } = await import("../index.ts");
  const problems = [
    ...(flags.baseModel !== undefined && flags.baseText === undefined
      ? ["--base-model would do nothing: forgetting is measured on --base-text."]
      : []),
    ...(given.has("show") && !flags.exactMatch ? ["--show would do nothing: no answers are generated."] : []),
    ...(flags.baseText !== undefined && flags.baseModel === undefined && flags.adapter === undefined
      ? ["--base-text measures forgetting against a base, and none is named: give --base-model, or --adapter."]
      : []),
  ];
  if (problems.length > 0)
    throw new TuneError("bad-option", problems, { at: "scion eval", fix: "change the options named above" });
}

/** What the model lost on the base's texts, when they are given. */
async function forgettingOf(
  flags: EvalFlags,
  { model, adapter }: { readonly model: LoadedModel; readonly adapter: Adapter | undefined },
  output: Output,
): Promise<{ readonly forgetting?: Forgetting; readonly baseText?: object }> {
  const { measureForgetting } = await import("../index.ts");
  if (flags.baseText === undefined) return {};
  const base = flags.baseModel === undefined ? model : (await loadFlags({ model: flags.baseModel }, output)).model;
  const text = await readBaseText(base, flags.baseText, flags, output);
  const tuned = await measureForgetting(base, text?.train ?? [], {
    ...(flags.baseModel === undefined ? {} : { tuned: model }),
    ...(adapter ? { adapter } : {}),
    batchSize: flags.batchSize,
    ...(flags.baseWeights ? { baseWeights: flags.baseWeights } : {}),
    deviceOptions: deviceOptions(flags),
  });
  output.say(
    `forgetting  ${tuned.forgetting.toFixed(4)} nats: ${tuned.tunedLoss.toFixed(4)} where the base has ${tuned.baseLoss.toFixed(4)}`,
  );
  return { forgetting: tuned, ...(text ? { baseText: readingRecord(text) } : {}) };
}
