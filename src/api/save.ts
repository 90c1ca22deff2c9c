import { TuneError } from "../errors.ts";
import {
  type CombineOptions,
  combineAdapters,
  type ExportFormName,
  exportForms,
  folderKind,
  mergeAdapter,
  readAdapter,
} from "../export/index.ts";
import { checkFolder, guardOutputs } from "../io/outputs/index.ts";
import type { Adapter } from "../methods/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { LoadedModel } from "./load-model.ts";

/** Read an adapter that PEFT, mlx-lm or Scion wrote, checked against its model. */
export async function loadAdapter(model: LoadedModel, folder: string): Promise<Adapter> {
  return { ...(await readAdapter(model.platform.storage, folder, model.pretrained)), folder };
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

/** What a call that writes is told of what is there. */
export interface OutputOptions {
  /** Replace what is in the way, even if Scion did not write it; never what is read. */
  readonly replace?: boolean;
  /** Files and folders that must stay as they are, besides the model, the adapter and the data. */
  readonly inputs?: readonly string[];
}

/** What is written, where it is merged. */
export interface ExportOptions extends OutputOptions {
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
 * The folder appears whole or not at all. An earlier export of the same form is replaced where it is as Scion wrote it;
 * anything else that is in the way stays, unless `replace` says otherwise.
 * @throws {TuneError} `output-exists`, `output-is-input`, `output-is-file`, `bad-option`, `no-adapter-form`, `no-gguf-form`, `adapter-mismatch`, `write-failed`.
 */
export async function exportModel(
  model: LoadedModel,
  to: ExportFormName,
  folder: string,
  options: ExportOptions = {},
): Promise<void> {
  const { adapter, device, deviceOptions, dtypes: given, replace, inputs = [], ...rest } = options;
  const { openDevice } = model.platform;
  const storage = guardOutputs(model.platform.storage, {
    inputs: [...(adapter?.folder === undefined ? [] : [adapter.folder]), ...inputs],
    ...(replace === undefined ? {} : { replace }),
  });
  const form = exportForms[to];
  const dtypes = checkedDtypes(to, given);
  const written = {
    ...rest,
    baseModel: model.source,
    dtypes,
    ...(adapter ? { adapter } : {}),
    ...(model.hasOwnTemplate ? { withTokenizer: true } : {}),
  };
  if (form.holds === "adapter") {
    if (!adapter)
      throw new TuneError("no-adapter-form", "There is no adapter to write.", { at: folder, fix: "give the adapter" });
    await checkFolder(storage, folder, folderKind(to));
    await form.write(storage, folder, model.pretrained, adapter, written);
    return;
  }
  await checkFolder(storage, folder, folderKind(to));
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
