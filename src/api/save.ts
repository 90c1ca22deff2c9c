import { assert, TuneError } from "../errors.ts";
import {
  type CombineOptions,
  combinations,
  combineAdapters,
  type ExportFormName,
  exportForms,
  type FormOptions,
  folderKind,
  mergeAdapter,
  readAdapter,
} from "../export/index.ts";
import { checkDisk, checkFolder, guardOutputs } from "../io/outputs/index.ts";
import type { Adapter } from "../methods/index.ts";
import { checkNames, checkWhole, checkWord, meant, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import { adapterFolder } from "./adapter-folder.ts";
import { checkDevice } from "./device-names.ts";
import type { LoadedModel } from "./load-model.ts";

/** Read an adapter that PEFT, mlx-lm or Scion wrote, checked against its model: its folder, or that of the run that left it. */
export async function loadAdapter(model: LoadedModel, folder: string): Promise<Adapter> {
  const { storage } = model.platform;
  const own = await adapterFolder(storage, folder);
  return { ...(await readAdapter(storage, own, model.pretrained)), folder: own };
}

/** How adapters become one. */
export interface CombineAdaptersOptions extends CombineOptions {
  /** One for each adapter; 1 unless given. */
  readonly weights?: readonly number[];
}

const combineNames: NamesOf<CombineAdaptersOptions> = { how: true, rank: true, weights: true };

/**
 * Add adapters of one model up, each with its weight, to one plain LoRA adapter; the ways are those of PEFT's
 * `add_weighted_adapter`.
 * @throws {TuneError} `bad-option`, `no-adapter-form`.
 */
export function combine(
  model: LoadedModel,
  adapters: Readonly<Record<string, Adapter>>,
  given: CombineAdaptersOptions = {},
): Adapter {
  checkNames(given, combineNames, "combine");
  checkWord("how", given.how, combinations, "combine");
  const { weights, ...options } = given;
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
export interface ExportOptions extends OutputOptions, FormOptions {
  /** The adapter to write, or to fold in first. */
  readonly adapter?: Adapter;
  /** What numbers are held in: names among the `dtypes` of the form; its first unless given. */
  readonly dtypes?: readonly string[];
  readonly device?: Device;
  readonly deviceOptions?: DeviceOptions;
}

const formOptionNames: NamesOf<FormOptions> = {
  externalDataBytes: true,
  maxDataBytes: true,
  maxShardBytes: true,
  preTokenizer: true,
};
const exportNames: NamesOf<ExportOptions> = {
  ...formOptionNames,
  replace: true,
  inputs: true,
  adapter: true,
  dtypes: true,
  device: true,
  deviceOptions: true,
};

/**
 * Look at everything of an export that needs no model.
 * @throws {TuneError} `bad-option` for a form, a dtype or an option that does not fit, or would do nothing; `no-adapter-form`
 * where an adapter is to be written and there is none.
 */
export function checkExport(
  to: ExportFormName,
  options: Omit<ExportOptions, "adapter"> & { readonly adapter?: unknown },
): void {
  checkNames(options, exportNames, "exportModel");
  checkWord("The form", to, Object.keys(exportForms), "exportModel");
  checkDevice(options);
  checkedDtypes(to, options.dtypes);
  const { takes = [], holds } = exportForms[to];
  const problems = Object.keys(formOptionNames).flatMap((name) => {
    const option = name as keyof FormOptions; // its keys
    if (options[option] === undefined || takes.includes(option)) return [];
    const takers = Object.entries(exportForms).filter(([, form]) => form.takes?.includes(option));
    return [`The form ${to} does not take ${name}: ${takers.map(([form]) => form).join(", ")} does.`];
  });
  for (const name of ["externalDataBytes", "maxDataBytes", "maxShardBytes"] as const)
    checkWhole(name, options[name], 1, "exportModel");
  if (problems.length > 0)
    throw new TuneError("bad-option", problems, { at: "exportModel", fix: "leave these options out" });
  if (holds === "model" || options.adapter) return;
  throw new TuneError("no-adapter-form", "There is no adapter to write.", { at: to, fix: "give the adapter" });
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
  checkExport(to, options);
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
    assert(adapter !== undefined, "it was checked");
    await checkFolder(storage, folder, folderKind(to));
    await form.write(storage, folder, model.pretrained, adapter, written);
    return;
  }
  await checkFolder(storage, folder, folderKind(to));
  const least =
    dtypes.length === 0
      ? [form.leastBytes(model.pretrained, "")]
      : dtypes.map((dtype) => form.leastBytes(model.pretrained, dtype));
  await checkDisk(
    storage,
    folder,
    least.reduce((sum, bytes) => sum + bytes, 0),
  );
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

function nearestOf(unknown: readonly string[], known: readonly string[]): string {
  const near = unknown.flatMap((name) => meant(name, known) ?? []);
  return near.length > 0 ? ` (nearest: ${[...new Set(near)].join(", ")})` : "";
}

function checkedDtypes(to: ExportFormName, given: readonly string[] | undefined): readonly string[] {
  const known: readonly string[] = exportForms[to].dtypes;
  if (given === undefined) return known.slice(0, 1);
  const unknown = given.filter((name) => !known.includes(name));
  if (unknown.length === 0 && given.length > 0) return given;
  throw new TuneError("bad-option", `The form ${to} holds no numbers as ${unknown.join(", ") || "nothing"}.`, {
    at: "dtypes",
    fix:
      known.length === 0
        ? `leave the dtype out; it is an option of ${Object.entries(exportForms)
            .filter(([, { dtypes }]) => dtypes.length > 0)
            .map(([form]) => form)
            .join(", ")}`
        : `use ${known.join(", ")}${nearestOf(unknown, known)}`,
  });
}
