import { type Command, InvalidArgumentError, Option } from "commander";
import {
  type Adapter,
  type BaseWeightsName,
  baseWeights,
  type DeviceOptions,
  describeQuantisation,
  type LoadedModel,
  type LoadModelOptions,
  loadAdapter,
  loadModel,
  type TaskName,
  TuneError,
  taskNames,
} from "../index.ts";
import { tellOfPlan } from "./attention.ts";
import type { Output } from "./output.ts";
import { platformOf } from "./outputs.ts";
import { createProgress } from "./progress.ts";

/** Options of every command that runs a model. */
export interface ModelFlags {
  readonly model: string;
  readonly adapter?: string;
  readonly task?: TaskName;
  readonly device?: string;
  readonly threads?: number;
  readonly chatTemplate?: string;
  readonly ignoreMemory?: boolean;
}

/** Add them to a command. */
export function withModel(
  command: Command,
  { adapter = true, device = true }: { adapter?: boolean; device?: boolean } = {},
): Command {
  command.requiredOption("-m, --model <folder or id>", "model folder, or hub id such as HuggingFaceTB/SmolLM2-135M");
  if (adapter)
    command.option("-a, --adapter <folder>", "adapter of PEFT or mlx-lm to use with it, or the folder of a run");
  command.addOption(
    new Option("--task <name>", "what the model is for; what its config says unless given").choices(taskNames),
  );
  withChatTemplate(command);
  return device ? withDevice(command) : command;
}

/** Add the choice of a chat template to a command. */
export function withChatTemplate(command: Command): Command {
  return command.option(
    "--chat-template <file or name>",
    "a chat template in place of the model's: a Jinja file, or chatml, llama-3, llama-2, mistral, gemma, phi-3, zephyr, alpaca, vicuna",
  );
}

/** The text of the template file that a flag names, or the name as it is given. */
async function templateOf(given: string): Promise<string> {
  const { nodePlatform } = await import("../runtime/node.ts");
  const size = await nodePlatform.storage.sizeBytes(given).catch(() => undefined);
  return size === undefined ? given : new TextDecoder().decode(await nodePlatform.storage.read(given));
}

/** Add the choice of device to a command. */
export function withDevice(command: Command): Command {
  return command
    .option("--device <provider>", "where to run: cpu, webgpu, cuda, or auto for the fastest that starts", "cpu")
    .option(
      "--threads <n>",
      "threads that one operation may use (default: the cores that this process may use)",
      wholeNumber,
    );
}

/** Options of {@link withBaseWeights}. */
export interface BaseWeightsFlags {
  readonly baseWeights?: BaseWeightsName;
}

/** How weights are held where a model is tuned or evaluated, unless told otherwise. */
export const heldDefault = "as the file holds them where that saves 500 MB or more, else f32";

/** Add the choice of how weights are held to a command that runs a model and does not train it. */
export function withBaseWeights(command: Command, initial: string): Command {
  const names = Object.keys(baseWeights);
  const help = `hold the model's weights in ${names.join(", ")} (default: ${initial})`;
  return command.addOption(new Option("--base-weights <form>", help).choices(names));
}

/** Add the way past the check of memory. */
export function withIgnoreMemory(command: Command): Command {
  return command.option("--ignore-memory", "go on although it would take more memory than is free");
}

/** What `--ignore-memory` says, as options of the API. */
export function memoryOptions({ ignoreMemory }: { readonly ignoreMemory?: boolean }): { readonly ignoreMemory?: true } {
  return ignoreMemory ? { ignoreMemory } : {};
}

/** Parse a whole number that commander hands over as text. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError(`"${text}" is not a whole number.`);
  return value;
}

/** Parse a number that commander hands over as text. */
export function realNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError(`"${text}" is not a number.`);
  return value;
}

/** The device that the flags choose. */
export function deviceOptions({ device, threads }: Pick<ModelFlags, "device" | "threads">): DeviceOptions {
  return { ...(device ? { provider: device } : {}), ...(threads ? { threads } : {}) };
}

/** Take several adapters, each with a name or without: `-a work=runs/a/adapter -a runs/b/adapter`. */
export function withAdapters(command: Command): Command {
  return command
    .option(
      "-a, --adapter <[name=]folder>",
      "adapter of PEFT or mlx-lm, or the folder of a run; again for more, side by side",
      collect,
    )
    .option("--use <name>", "which of the adapters acts; none for the model alone");
}

/** Add a value to those before it. */
export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

/** Options of {@link withAdapters}. */
export interface AdaptersFlags {
  readonly adapter?: string | readonly string[];
  readonly use?: string;
}

/** What `--use` says: an adapter's name, or null for the model alone. */
export function used({ use }: AdaptersFlags): string | null {
  return use === undefined || use === "none" ? null : use;
}

/** Adapters as options of a session: one that always acts, or several to choose from. */
export function sideBySide(
  adapters: Readonly<Record<string, Adapter>>,
  { use }: AdaptersFlags,
): { readonly adapter?: Adapter; readonly adapters?: Readonly<Record<string, Adapter>> } {
  const [only, ...others] = Object.values(adapters);
  if (only === undefined && use === undefined) return {};
  return only !== undefined && others.length === 0 && use === undefined ? { adapter: only } : { adapters };
}

/** The folders of adapters, and the names given to them. */
function named({
  adapter = [],
}: AdaptersFlags): readonly { readonly given: string | undefined; readonly folder: string }[] {
  return (typeof adapter === "string" ? [adapter] : adapter).map((text) => {
    const [, given, folder = text] = /^([\w-]+)=(.+)$/.exec(text) ?? [];
    return { given, folder };
  });
}

/** The folders of the adapters that the flags name, for which a model is loaded. */
export function forAdapters(flags: AdaptersFlags): Pick<LoadModelOptions, "forAdapter"> {
  return { forAdapter: named(flags).map(({ folder }) => folder) };
}

/** Load the adapters that the flags name, by name: the one given, or the folder's last part that is not `adapter`. */
export async function loadAdapters(
  model: LoadedModel,
  { adapter = [] }: AdaptersFlags,
  output: Output,
): Promise<Readonly<Record<string, Adapter>>> {
  const adapters: Record<string, Adapter> = {};
  for (const { given, folder } of named({ adapter })) {
    const parts = folder.split(/[\\/]/).filter((part) => part !== "" && part !== "adapter");
    const name = given ?? parts.at(-1) ?? "adapter";
    if (adapters[name] !== undefined || name === "none") {
      throw new TuneError("bad-option", `Two adapters would be called "${name}".`, {
        at: "--adapter",
        fix: `name them: --adapter one=${folder}`,
      });
    }
    adapters[name] = await loadAdapter(model, folder);
    await tellOfPlan(model, folder, output);
  }
  return adapters;
}

/** Load the model, showing downloads, and its adapter. */
export async function loadFlags(
  flags: ModelFlags & { readonly attention?: unknown },
  output: Output,
  head: Pick<LoadModelOptions, "forAdapter" | "labelsFrom" | "newHead" | "newTokens" | "readOptions" | "seed"> = {},
): Promise<{ readonly model: LoadedModel; readonly adapter: Adapter | undefined }> {
  const progress = createProgress();
  const model = await loadModel(flags.model, {
    platform: platformOf(flags),
    ...head,
    ...(flags.task ? { task: flags.task } : {}),
    ...(flags.chatTemplate === undefined ? {} : { chatTemplate: await templateOf(flags.chatTemplate) }),
    ...(flags.adapter === undefined ? {} : { forAdapter: flags.adapter }),
    onDownload: ({ file, doneBytes, totalBytes }) => {
      const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
      progress.update(`${file}: ${megabytes(doneBytes)}${totalBytes ? ` of ${megabytes(totalBytes)}` : ""}`);
    },
  });
  progress.clear();
  const { quantised } = model.pretrained;
  if (quantised.length > 0) {
    output.say(`The weights are quantised: ${describeQuantisation(quantised)}.`);
    output.say("They are computed with in float32, and exports hold plain weights.");
  }
  for (const { key, nearest } of model.pretrained.warnings) {
    output.say(`config.json: "${key}" is not known and has no effect${nearest ? ` (nearest: "${nearest}")` : ""}.`);
  }
  if (flags.adapter === undefined) return { model, adapter: undefined };
  if (flags.attention === undefined) await tellOfPlan(model, flags.adapter, output);
  return { model, adapter: await loadAdapter(model, flags.adapter) };
}
