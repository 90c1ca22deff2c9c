import { type Command, Option } from "commander";
import type { Lookups, Prompt } from "../index.ts";
import {
  type AdaptersFlags,
  type BaseWeightsFlags,
  deviceOptions,
  forAdapters,
  loadAdapters,
  loadFlags,
  type ModelFlags,
  memoryOptions,
  realNumber,
  sideBySide,
  used,
  wholeNumber,
  withAdapters,
  withBaseWeights,
  withIgnoreMemory,
  withModel,
} from "./model.ts";
import { type Output, strong } from "./output.ts";
import type { Given } from "./parsing.ts";
import { dashed } from "./tuning.ts";

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
  return withIgnoreMemory(command)
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

/**
 * Look at the flags of `generate` and `chat` before a model is opened.
 * @throws {TuneError} `bad-option` for values out of range, and options that would do nothing beside the others.
 */
export async function checkGenerating(
  flags: SamplingFlags & AdaptersFlags & { readonly raw?: boolean; readonly system?: string },
  given: Given,
): Promise<void> {
  const { resolveSampling, TuneError } = await import("../index.ts");
  const sampled = ["topK", "topP", "minP", "seed"].filter((name) => flags.temperature === 0 && given.has(name));
  const problems = [
    ...sampled.map(
      (name) => `--${dashed(name)} would do nothing: --temperature is 0, so the likeliest token is taken.`,
    ),
    ...(flags.use !== undefined && flags.adapter === undefined
      ? ["--use would do nothing: there is no --adapter to choose from."]
      : []),
    ...(flags.raw && flags.system !== undefined
      ? ["--system would do nothing: --raw continues the text without the chat template."]
      : []),
  ];
  if (problems.length > 0)
    throw new TuneError("bad-option", problems, { at: "generation", fix: "change the options named above" });
  resolveSampling(samplingOf(flags));
}

/** @throws {TuneError} `no-chat-template` where there is a system message and nothing that places it. */
export async function checkSystem(system: string | undefined, chats: boolean): Promise<void> {
  if (system === undefined || chats) return;
  const { TuneError } = await import("../index.ts");
  throw new TuneError("no-chat-template", "The model has no chat template, so a system message has no place.", {
    at: "--system",
    fix: "put it before the prompt as text",
  });
}

interface GenerateFlags extends Omit<ModelFlags, "adapter">, AdaptersFlags, BaseWeightsFlags, SamplingFlags {
  readonly prompt: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly stop?: readonly string[];
}

/** `scion generate` */
export function define(command: Command): void {
  withSampling(
    withBaseWeights(
      withAdapters(withModel(command.description("Continue a prompt"), { adapter: false })),
      "f32; as the file holds them where that would not fit",
    ),
  )
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
  $ scion generate -m ./model -a law=runs/law/adapter -a wit=runs/wit/adapter -p "…"    an answer of each
  $ cat question.txt | scion generate -m ./model -p - --json

A model with a chat template answers the prompt as a user's message; one without it continues the text.`,
    );
}

/** Run it. */
export async function run(
  flags: GenerateFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  const { openSession } = await import("../index.ts");
  await checkGenerating(flags, given);
  const { adapter: _adapters, ...modelFlags } = flags;
  const { model } = await loadFlags(modelFlags, output, forAdapters(flags));
  const adapters = await loadAdapters(model, flags, output);
  const text = flags.prompt === "-" ? await readInput() : flags.prompt;
  const tokenizer = await model.tokenizer();
  const chats = tokenizer.chatTemplates.size > 0 && flags.raw !== true;
  await checkSystem(flags.system, chats);
  const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  const prompt: Prompt = chats ? [...system, { role: "user", content: text }] : text;
  const session = await openSession(model, {
    ...sideBySide(adapters, flags),
    ...(flags.lookups ? { lookups: flags.lookups } : {}),
    ...(flags.baseWeights ? { baseWeights: flags.baseWeights } : {}),
    ...memoryOptions(flags),
    deviceOptions: deviceOptions(flags),
  });
  try {
    const names = Object.keys(adapters);
    const chosen = flags.use === undefined ? names : [used(flags)];
    for (const use of chosen.length > 0 ? chosen : [null]) {
      if (chosen.length > 1) output.say(strong(use ?? "none"));
      const choice = names.length > 1 || flags.use !== undefined ? { use } : {};
      const options = { ...samplingOf(flags), ...choice, ...(flags.stop ? { stop: flags.stop } : {}) };
      const pieces = session.generate(prompt, options);
      let step = await pieces.next();
      for (; !step.done; step = await pieces.next()) output.write(step.value);
      const { text: answer, ids, promptTokens, finishReason } = step.value;
      output.write("\n");
      const adapter = names.length > 1 ? { adapter: use } : {};
      output.record({ ...adapter, text: answer, promptTokens, newTokens: ids.length, finishReason });
    }
  } finally {
    await session.close();
  }
  return 0;
}

async function readInput(): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8").trim();
}
