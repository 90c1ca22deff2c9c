import { TuneError } from "../errors.ts";
import {
  type CombineOptions,
  combineAdapters,
  type ExportFormName,
  exportForms,
  mergeAdapter,
  readAdapter,
} from "../export/index.ts";
import type { Adapter } from "../methods/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { LoadedModel } from "./load-model.ts";

/** Read an adapter that PEFT, mlx-lm or Scion wrote, checked against its model. */
export function loadAdapter(model: LoadedModel, folder: string): Promise<Adapter> {
  return readAdapter(model.platform.storage, folder, model.pretrained);
}

/** How adapters become one. */
export interface CombineAdaptersOptions extends CombineOptions {
  /** One for each adapter; 1 unless given. */
  readonly weights?: readonly number[];
}

/**
 * Add adapters of one model up, each with its weight, to one plain LoRA adapter; the ways are those of PEFT's
 * `add_weighted_adapter`.
 * @throws {TuneError} `bad-option`, `no-adapter-form`.
 */
export function combine(
  model: LoadedModel,
  adapters: Readonly<Record<string, Adapter>>,
  { weights, ...options }: CombineAdaptersOptions = {},
): Adapter {
  const all = Object.values(adapters);
  if (weights !== undefined && weights.length !== all.length) {
    throw new TuneError("bad-option", `There are ${all.length} adapters and ${weights.length} weights.`, {
      at: "combining adapters",
      fix: "give one weight for each adapter",
    });
  }
  const weighted = all.map((adapter, i) => ({ adapter, weight: weights?.[i] ?? 1 }));
  return combineAdapters(model.pretrained, weighted, options);
}

/** What is written, where it is merged. */
export interface ExportOptions {
  /** The adapter to write, or to fold in first. */
  readonly adapter?: Adapter;
  /** What numbers are held in: names among the `dtypes` of the form; its first unless given. */
  readonly dtypes?: readonly string[];
  /** Weights of more bytes go beside the graph (`transformers.js`). */
  readonly externalDataBytes?: number;
  /** Those beside the graph are split into files of at most this (`transformers.js`); 1.9 GB, which a page can hold. */
  readonly maxDataBytes?: number;
  /** Files larger than this are split (`safetensors`). */
  readonly maxShardBytes?: number;
  /** How llama.cpp cuts texts, where the tokenizer is like none of its own (`gguf`). */
  readonly preTokenizer?: string;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
}

/**
 * Write a tuned model in one of the {@link exportForms}: its adapter, or the model with the adapter folded in.
 * The folder appears whole or not at all, replacing what was there.
 * @throws {TuneError} `bad-option`, `no-adapter-form`, `no-gguf-form`, `adapter-mismatch`, `write-failed`.
 */
export async function exportModel(
  model: LoadedModel,
  to: ExportFormName,
  folder: string,
  options: ExportOptions = {},
): Promise<void> {
  const { adapter, device, deviceOptions, dtypes: given, ...rest } = options;
  const { storage, openDevice } = model.platform;
  const form = exportForms[to];
  const dtypes = checkedDtypes(to, given);
  const written = { ...rest, baseModel: model.source, dtypes, ...(adapter ? { adapter } : {}) };
  if (form.holds === "adapter") {
    if (!adapter)
      throw new TuneError("no-adapter-form", "There is no adapter to write.", { at: folder, fix: "give the adapter" });
    await form.write(storage, folder, model.pretrained, adapter, written);
    return;
  }
  const opened = adapter && (device ?? (await openDevice(deviceOptions)));
  let merged: ReturnType<typeof mergeAdapter> | undefined;
  try {
    merged = adapter && opened && mergeAdapter(opened, model.pretrained, adapter);
    await form.write(storage, folder, merged?.model ?? model.pretrained, written);
  } finally {
    await merged?.close();
    if (!device) await opened?.close();
  }
}

function checkedDtypes(to: ExportFormName, given: readonly string[] | undefined): readonly string[] {
  const known: readonly string[] = exportForms[to].dtypes;
  if (given === undefined) return known.slice(0, 1);
  const unknown = given.filter((name) => !known.includes(name));
  if (unknown.length === 0 && given.length > 0) return given;
  throw new TuneError("bad-option", `The form ${to} holds no numbers as ${unknown.join(", ") || "nothing"}.`, {
    fix: known.length === 0 ? "leave the dtype out" : `use ${known.join(", ")}`,
  });
}
