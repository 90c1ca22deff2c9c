import { TuneError } from "../errors.ts";
import {
  asLora,
  mergeAdapter,
  readAdapter,
  writeAdapter,
  writeMlx,
  writeSafetensorsFolder,
  writeTransformersJsFolder,
} from "../export/index.ts";
import type { Adapter } from "../methods/index.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { LoadedModel } from "./load-model.ts";

/** Read an adapter that PEFT, mlx-lm or Scion wrote, checked against its model. */
export function loadAdapter(model: LoadedModel, folder: string): Promise<Adapter> {
  return readAdapter(model.platform.storage, folder, model.pretrained);
}

/** The forms that a tuned model can be written in; `lora` is PEFT's for plain LoRA, whatever the method. */
export type ExportForm = "peft" | "lora" | "mlx" | "safetensors" | "transformers.js";

/** What is written, where it is merged. */
export interface ExportOptions {
  /** The adapter to write, or to fold in first. */
  readonly adapter?: Adapter;
  /** Weights of more bytes go beside the graph (`transformers.js`). */
  readonly externalDataBytes?: number;
  /** Files larger than this are split (`safetensors`). */
  readonly maxShardBytes?: number;
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
}

/**
 * Write a tuned model: its adapter for PEFT or mlx-lm, its merged weights as safetensors, or a folder that transformers.js loads.
 * The folder appears whole or not at all, replacing what was there.
 * @throws {TuneError} `no-adapter-form`, `adapter-mismatch`, `write-failed`.
 */
export async function exportModel(
  model: LoadedModel,
  to: ExportForm,
  folder: string,
  options: ExportOptions = {},
): Promise<void> {
  const { adapter, device, deviceOptions, externalDataBytes, maxShardBytes } = options;
  const { storage, openDevice } = model.platform;
  const baseModel = model.source;
  const adapterWriters: Partial<Record<ExportForm, typeof writeAdapter>> = {
    peft: writeAdapter,
    mlx: writeMlx,
    lora: (at, into, base, given, options) => writeAdapter(at, into, base, asLora(base, given, into), options),
  };
  const adapterWriter = adapterWriters[to];
  if (adapterWriter) {
    if (!adapter)
      throw new TuneError("no-adapter-form", "There is no adapter to write.", { at: folder, fix: "give the adapter" });
    await adapterWriter(storage, folder, model.pretrained, adapter, { baseModel });
    return;
  }
  const opened = adapter && (device ?? (await openDevice(deviceOptions)));
  const merged = adapter && opened && mergeAdapter(opened, model.pretrained, adapter);
  try {
    const source = merged?.model ?? model.pretrained;
    const card = { baseModel, ...(adapter ? { adapter } : {}) };
    if (to === "safetensors") {
      await writeSafetensorsFolder(storage, folder, source, { ...card, ...(maxShardBytes ? { maxShardBytes } : {}) });
    } else {
      const external = externalDataBytes === undefined ? {} : { externalDataBytes };
      await writeTransformersJsFolder(storage, folder, source, { ...card, ...external });
    }
  } finally {
    await merged?.close();
    if (!device) await opened?.close();
  }
}
