import { type Command, Option } from "commander";
import type { Lookups, Prompt } from "../index.ts";
import { deviceOptions, loadFlags, type ModelFlags, realNumber, wholeNumber, withModel } from "./model.ts";
import type { Output } from "./output.ts";

/** How text is chosen, as flags of `generate` and `chat`. */
export interface SamplingFlags {
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly seed: number;
  readonly lookups?: Lookups;
}

/** Add them to a command. */
export function withSampling(command: Command): Command {
  return command
    .option("--max-new-tokens <n>", "most tokens to add", wholeNumber, 256)
    .option(
      "--temperature <t>",
      "0 takes the likeliest token each time (greedy); 1 samples as the model says",
      realNumber,
      0,
    )
    .option("--top-k <k>", "sample among the k likeliest; 0 among all", wholeNumber, 0)
    .option("--top-p <p>", "sample among the likeliest that together reach p", realNumber, 1)
    .option("--min-p <p>", "sample among those at least p times as likely as the likeliest", realNumber, 0)
    .option("--repetition-penalty <x>", "make tokens that were seen less likely", realNumber, 1)
    .option("--seed <n>", "decides sampling", wholeNumber, 0)
    .addOption(
      new Option("--lookups <how>", "of packed models: fast errs by less than 1 % a layer (default: by size)").choices([
        "fast",
        "exact",
      ]),
    );
}

/** The sampling flags as options of the API. */
export function samplingOf({
  maxNewTokens,
  temperature,
  topK,
  topP,
  minP,
  repetitionPenalty,
  seed,
}: SamplingFlags): SamplingFlags {
  return { maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed };
}

interface GenerateFlags extends ModelFlags, SamplingFlags {
  readonly prompt: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly stop?: readonly string[];
}

/** `scion generate` */
export function define(command: Command): void {
  withSampling(withModel(command.description("Continue a prompt")))
    .requiredOption("-p, --prompt <text>", "what to continue; - reads standard input")
    .option("--system <text>", "a system message before it")
    .option("--raw", "continue the text as it stands, without the model's chat template")
    .option("--stop <text...>", "texts that end the answer")
    .addHelpText(
      "after",
      `
Examples:
  $ scion generate -m HuggingFaceTB/SmolLM2-135M-Instruct -p "Name three trees."
  $ scion generate -m ./model -a runs/tune/adapter -p "Once upon a time" --raw --temperature 0.8
  $ cat question.txt | scion generate -m ./model -p - --json

A model with a chat template answers the prompt as a user's message; one without it continues the text.`,
    );
}

/** Run it. */
export async function run(flags: GenerateFlags, output: Output): Promise<number> {
  const { generate } = await import("../index.ts");
  const { model, adapter } = await loadFlags(flags, output);
  const text = flags.prompt === "-" ? await readInput() : flags.prompt;
  const tokenizer = await model.tokenizer();
  const chats = tokenizer.chatTemplates.size > 0 && flags.raw !== true;
  const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const prompt: Prompt = chats ? [...system, { role: "user", content: text }] : text;
  const pieces = generate(model, prompt, {
    ...samplingOf(flags),
    ...(adapter ? { adapter } : {}),
    ...(flags.stop ? { stop: flags.stop } : {}),
    ...(flags.lookups ? { lookups: flags.lookups } : {}),
    deviceOptions: deviceOptions(flags),
  });
  let step = await pieces.next();
  for (; !step.done; step = await pieces.next()) output.write(step.value);
  const { text: answer, ids, promptTokens, finishReason } = step.value;
  output.write("\n");
  output.record({ text: answer, promptTokens, newTokens: ids.length, finishReason });
  return 0;
}

async function readInput(): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8").trim();
}
