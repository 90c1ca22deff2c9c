import type { Command } from "commander";
import { type Adapter, type DeviceOptions, type LoadedModel, loadAdapter, loadModel } from "../index.ts";
import { nodePlatform } from "../runtime/node.ts";
import type { Output } from "./output.ts";
import { createProgress } from "./progress.ts";

/** Options of every command that runs a model. */
export interface ModelFlags {
  readonly model: string;
  readonly adapter?: string;
  readonly device?: string;
  readonly threads?: number;
}

/** Add them to a command. */
export function withModel(command: Command, { adapter = true }: { adapter?: boolean } = {}): Command {
  command.requiredOption("-m, --model <folder or id>", "model folder, or hub id such as HuggingFaceTB/SmolLM2-135M");
  if (adapter) command.option("-a, --adapter <folder>", "adapter of PEFT or mlx-lm to use with it");
  return withDevice(command);
}

/** Add the choice of device to a command. */
export function withDevice(command: Command): Command {
  return command
    .option("--device <provider>", "where to run: cpu, webgpu or cuda", "cpu")
    .option("--threads <n>", "threads that one operation may use", wholeNumber);
}

/** Parse a whole number that commander hands over as text. */
export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`"${text}" is not a whole number.`);
  return value;
}

/** Parse a number that commander hands over as text. */
export function realNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`"${text}" is not a number.`);
  return value;
}

/** The device that the flags choose. */
export function deviceOptions({ device, threads }: Pick<ModelFlags, "device" | "threads">): DeviceOptions {
  return { ...(device ? { provider: device } : {}), ...(threads ? { threads } : {}) };
}

/** Load the model, showing downloads, and its adapter. */
export async function loadFlags(
  flags: ModelFlags,
  output: Output,
): Promise<{ readonly model: LoadedModel; readonly adapter: Adapter | undefined }> {
  const progress = createProgress(process.stderr);
  const model = await loadModel(flags.model, {
    platform: nodePlatform,
    onDownload: ({ file, doneBytes, totalBytes }) => {
      const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
      progress.update(`${file}: ${megabytes(doneBytes)}${totalBytes ? ` of ${megabytes(totalBytes)}` : ""}`);
    },
  });
  progress.clear();
  const { unused } = model.pretrained;
  if (unused.length > 0)
    output.say(`The files hold ${unused.length} tensors that the model does not use (${unused[0]}, …).`);
  return { model, adapter: flags.adapter === undefined ? undefined : await loadAdapter(model, flags.adapter) };
}
