import { createInterface } from "node:readline/promises";
import type { Command } from "commander";
import type { ChatMessage } from "../index.ts";
import { checkGenerating, checkSystem, type SamplingFlags, samplingOf, withSampling } from "./generate.ts";
import {
  type AdaptersFlags,
  type BaseWeightsFlags,
  deviceOptions,
  forAdapters,
  loadAdapters,
  loadFlags,
  type ModelFlags,
  memoryOptions,
  sideBySide,
  used,
  withAdapters,
  withBaseWeights,
  withModel,
} from "./model.ts";
import { faint, type Output } from "./output.ts";
import type { Given } from "./parsing.ts";

interface ChatFlags extends Omit<ModelFlags, "adapter">, AdaptersFlags, BaseWeightsFlags, SamplingFlags {
  readonly system?: string;
}

/** `scion chat` */
export function define(command: Command): void {
  withSampling(
    withBaseWeights(
      withAdapters(withModel(command.description("Talk with a model"), { adapter: false })),
      "f32; as the file holds them where that would not fit",
    ),
  )
    .option("--system <text>", "a system message to begin with")
    .addHelpText(
      "after",
      `
Example:
  $ scion chat -m HuggingFaceTB/SmolLM2-135M-Instruct -a runs/tune/adapter --temperature 0.7

/reset forgets the conversation, /use NAME takes another of the adapters (none: the model alone), /exit leaves, Ctrl-C ends an answer, or at the prompt the conversation. A model without a chat template continues your text.`,
    );
}

/** Run it. */
export async function run(flags: ChatFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { openSession } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { leave } = await import("./interrupt.ts");
  await checkGenerating(flags, given);
  const { adapter: _adapters, ...modelFlags } = flags;
  const { model } = await loadFlags(modelFlags, output, forAdapters(flags));
  const adapters = await loadAdapters(model, flags, output);
  let use = flags.use === undefined ? (Object.keys(adapters)[0] ?? null) : used(flags);
  const chats = (await model.tokenizer()).chatTemplates.size > 0;
  await checkSystem(flags.system, chats);
  const session = await openSession(model, {
    ...sideBySide(adapters, flags),
    ...(flags.lookups ? { lookups: flags.lookups } : {}),
    ...(flags.baseWeights ? { baseWeights: flags.baseWeights } : {}),
    ...memoryOptions(flags),
    deviceOptions: deviceOptions(flags),
  });
  const opening: readonly ChatMessage[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
  let messages: ChatMessage[] = [...opening];
  const lines = createInterface({
    input: process.stdin,
    output: process.stderr,
    terminal: process.stdin.isTTY === true,
  });
  let answering: AbortController | undefined;
  lines.on("SIGINT", () => {
    if (answering && !answering.signal.aborted) answering.abort();
    else void leave(exitCodes.interrupted);
  });
  if (process.stdin.isTTY) {
    const several = Object.keys(adapters).length > 0 ? " /use NAME takes another adapter," : "";
    output.say(faint(`/reset forgets,${several} /exit leaves, Ctrl-C ends an answer.`));
  }
  lines.setPrompt("> ");
  lines.prompt();
  for await (const line of lines) {
    const text = line.trim();
    if (text === "/exit") break;
    if (text === "/reset") messages = [...opening];
    else if (text.startsWith("/use ")) {
      const name = text.slice(5).trim();
      if (Object.keys(adapters).length < 2 && flags.use === undefined) output.say("There is nothing to choose from.");
      else if (name === "none" || adapters[name] !== undefined) use = name === "none" ? null : name;
      else output.say(`There is no adapter "${name}": ${[...Object.keys(adapters), "none"].join(", ")}.`);
    } else if (text !== "") {
      messages.push({ role: "user", content: text });
      answering = new AbortController();
      const pieces = session.generate(chats ? messages : text, {
        ...samplingOf(flags),
        ...(Object.keys(adapters).length > 1 || flags.use !== undefined ? { use } : {}),
        signal: answering.signal,
      });
      let step = await pieces.next();
      for (; !step.done; step = await pieces.next()) output.write(step.value);
      output.write("\n");
      output.record({ text: step.value.text, newTokens: step.value.ids.length, finishReason: step.value.finishReason });
      messages.push({ role: "assistant", content: step.value.text });
      answering = undefined;
    }
    lines.prompt();
  }
  lines.close();
  await session.close();
  return 0;
}
