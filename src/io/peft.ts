import { assert, nearest, TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { type JsonObject, parseJsonObject } from "./json.ts";
import { pickleRefused } from "./pickle.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage, writeFolder } from "./storage.ts";

/** How PEFT stores one kind of adapter: its `peft_type`, and our name of each tensor of a module -> PEFT's suffix. */
export interface PeftLayout {
  readonly type: string;
  readonly tensors: Readonly<Record<string, string>>;
  /** The key of the config that is true for this layout, where several share a type. */
  readonly flag?: string;
}

/** Module name -> the tensors that adapt it, under our names (`A`, `B`). */
export type AdapterTensors<T extends Tensor | LazyTensor> = ReadonlyMap<string, Readonly<Record<string, T>>>;

/** A PEFT adapter folder, opened. */
export interface PeftAdapter {
  /** `adapter_config.json` as it stands, in PEFT's spelling; `peft-lora.ts` and its like translate it. */
  readonly config: JsonObject;
  /** The one among the layouts offered that the adapter has. */
  readonly layout: PeftLayout;
  /** The model it was made for: a hub id or a folder; undefined when the adapter does not say. */
  readonly baseModel: string | undefined;
  readonly tensors: AdapterTensors<LazyTensor>;
}

const configFile = "adapter_config.json";
const weightsFile = "adapter_model.safetensors";
/** PEFT wraps the model twice, and its files keep the wrappers' names. */
const prefix = "base_model.model.";

/**
 * Open a folder written by PEFT's `save_pretrained` (0.21), knowing `layouts`.
 * @throws {TuneError} `file-not-found`; `pickle-refused` for `adapter_model.bin`; `peft-bad-config`;
 * `peft-unknown-type`; `peft-bad-tensors` with every tensor that has no place in the layout and every module that
 * lacks one; what `openSafetensors` throws.
 */
export async function readPeftAdapter(
  storage: Storage,
  folder: string,
  layouts: readonly PeftLayout[],
): Promise<PeftAdapter> {
  const configPath = joinPath(folder, configFile);
  const weightsPath = joinPath(folder, weightsFile);
  const names = await storage.list(folder);
  if (!names.includes(configFile)) throw missing(folder, configFile);
  const config = parseJsonObject(await storage.read(configPath), "peft-bad-config", configPath);
  const layout = layoutOf(config, layouts, configPath);
  if (!names.includes(weightsFile)) {
    if (!names.includes("adapter_model.bin")) throw missing(folder, weightsFile);
    throw pickleRefused(
      folder,
      "adapter_model.bin",
      "load it in a current PEFT and save it again: it writes safetensors",
    );
  }
  const { tensors } = await openSafetensors(storage, weightsPath);
  const { base_model_name_or_path: base } = config;
  return {
    config,
    layout,
    baseModel: typeof base === "string" && base !== "" ? base : undefined,
    tensors: groupByModule(tensors, layout, weightsPath),
  };
}

/**
 * Write a folder that PEFT's `from_pretrained` loads; it replaces what was at `folder` whole.
 * `config` is in PEFT's spelling (see `peft-lora.ts`); every module must have every tensor of the layout.
 * @throws {TuneError} `write-failed`; whatever reading a lazy tensor throws.
 */
export async function writePeftAdapter(
  storage: Storage,
  folder: string,
  adapter: {
    readonly config: JsonObject;
    readonly layout: PeftLayout;
    readonly tensors: AdapterTensors<Tensor | LazyTensor>;
  },
): Promise<void> {
  const { config, layout, tensors } = adapter;
  assert(config["peft_type"] === layout.type, `a ${config["peft_type"]} config with the layout of ${layout.type}`);
  const entries: NamedTensor[] = [];
  for (const [module, parts] of tensors) {
    for (const [key, suffix] of Object.entries(layout.tensors)) {
      const tensor = parts[key];
      assert(tensor !== undefined, `${module} has no tensor ${key}`);
      entries.push({ name: `${prefix}${module}.${suffix}`, tensor });
    }
  }
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  await writeFolder(storage, folder, async (staging) => {
    await storage.write(joinPath(staging, configFile), JSON.stringify(sorted, null, 2));
    await writeSafetensors(storage, joinPath(staging, weightsFile), entries);
  });
}

function missing(folder: string, file: string): TuneError {
  return new TuneError("file-not-found", `${folder} has no ${file}.`, {
    at: folder,
    fix: `name a folder that PEFT or Scion wrote: it holds ${configFile} and ${weightsFile}`,
  });
}

function layoutOf(config: JsonObject, layouts: readonly PeftLayout[], at: string): PeftLayout {
  const { peft_type: type } = config;
  if (typeof type !== "string") {
    throw new TuneError("peft-bad-config", "it names no peft_type.", { at, fix: "save the adapter again with PEFT" });
  }
  const fitting = layouts.filter(
    (candidate) => candidate.type === type && (candidate.flag === undefined || config[candidate.flag] === true),
  );
  const layout = fitting.find(({ flag }) => flag !== undefined) ?? fitting[0];
  if (layout !== undefined) return layout;
  const known = layouts.map((candidate) => candidate.type);
  const [guess] = nearest(type, known, 1);
  throw new TuneError("peft-unknown-type", `peft_type "${type}" is not supported.`, {
    at,
    fix: `use an adapter of type ${known.join(", ")}${guess === undefined ? "" : ` (nearest: ${guess})`}, or merge it in PEFT and load the merged model`,
  });
}

function groupByModule(
  tensors: ReadonlyMap<string, LazyTensor>,
  layout: PeftLayout,
  at: string,
): AdapterTensors<LazyTensor> {
  const suffixes = Object.entries(layout.tensors);
  const modules = new Map<string, Record<string, LazyTensor>>();
  const problems: Problem[] = [];
  const bad = (what: string, fix: string): void => {
    problems.push({ code: "peft-bad-tensors", what, fix });
  };
  for (const [name, tensor] of tensors) {
    const found = suffixes.find(([, suffix]) => name.endsWith(`.${suffix}`));
    if (!name.startsWith(prefix)) {
      bad(`${name} does not start with "${prefix}".`, "save the adapter with PEFT's save_pretrained");
    } else if (found === undefined) {
      const expected = suffixes.map(([, suffix]) => suffix).join(" or ");
      bad(
        `${name} is not part of a ${layout.type} adapter (expected …${expected}).`,
        "merge the adapter in PEFT instead",
      );
    } else {
      const [key, suffix] = found;
      const module = name.slice(prefix.length, -(suffix.length + 1));
      const parts = modules.get(module) ?? {};
      parts[key] = tensor;
      modules.set(module, parts);
    }
  }
  for (const [module, parts] of modules) {
    const lacking = suffixes.filter(([key]) => parts[key] === undefined).map(([, suffix]) => suffix);
    if (lacking.length > 0)
      bad(`${module} has no ${lacking.join(" and no ")}.`, "save the adapter again; it is incomplete");
  }
  if (tensors.size === 0) bad("it holds no tensor.", "save the adapter again; it is empty");
  throwProblems(problems, at);
  return modules;
}
