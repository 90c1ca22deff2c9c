import type { Command } from "commander";
import { deviceOptions, loadFlags, type ModelFlags, wholeNumber, withModel } from "./model.ts";
import type { Output } from "./output.ts";
import { count, createProgress } from "./progress.ts";

interface EvalFlags extends ModelFlags {
  readonly data: string;
  readonly maxLength?: number;
  readonly batchSize: number;
  readonly exactMatch: boolean;
  readonly show: number;
}

/** `scion eval` */
export function define(command: Command): void {
  withModel(command.description("Measure loss, perplexity and exact match on data"))
    .requiredOption("-d, --data <file>", "what to measure on, in the forms that tune reads")
    .option("--max-length <tokens>", "longest sequence; the model's context unless given", wholeNumber)
    .option("--batch-size <n>", "sequences measured side by side", wholeNumber, 8)
    .option("--no-exact-match", "do not answer every example greedily")
    .option("--show <n>", "wrong answers to show", wholeNumber, 3)
    .addHelpText(
      "after",
      `
Examples:
  $ scion eval -m ./model -a runs/tune/adapter -d heldout.jsonl
  $ scion eval -m ./model -d book.txt --json

Exact match is measured on conversations and prompts: the last answer is generated greedily and compared as text.`,
    );
}

/** Run it. */
export async function run(flags: EvalFlags, output: Output): Promise<number> {
  const { evaluate, loadData } = await import("../index.ts");
  const { model, adapter } = await loadFlags(flags, output);
  const data = await loadData(model, flags.data, flags.maxLength === undefined ? {} : { maxLength: flags.maxLength });
  const progress = createProgress(process.stderr);
  const result = await evaluate(model, data.train, {
    ...(adapter ? { adapter } : {}),
    batchSize: flags.batchSize,
    exactMatch: flags.exactMatch && data.format !== "text" && data.kind === "sequence",
    deviceOptions: deviceOptions(flags),
    onProgress: (stage, done, total) => progress.update(`${stage}: ${done}/${total}`),
  });
  progress.clear();
  output.say(
    `loss        ${result.loss.toFixed(4)} ${result.perplexity === undefined ? "" : "nats "}over ${count(result.targets)} ${result.meanOver}`,
  );
  if (result.perplexity !== undefined) output.say(`perplexity  ${result.perplexity.toFixed(3)}`);
  for (const [name, value] of Object.entries(result.measures)) output.say(`${name.padEnd(11)} ${value.toFixed(4)}`);
  if (result.exactMatch) {
    const { matches, total, answers } = result.exactMatch;
    output.say(`exact match ${((100 * matches) / total).toFixed(1)} % (${matches} of ${total})`);
    for (const { line, expected, given } of answers.filter((answer) => !answer.matches).slice(0, flags.show)) {
      output.say(`  line ${line}\n    expected ${expected}\n    given    ${given}`);
    }
  }
  output.record(result);
  return 0;
}
