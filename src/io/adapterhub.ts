import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { type AdapterHubSettings, configOf, missesDefault, settingsOf } from "./adapterhub-config.ts";
import { type AdapterHubHead, readHead, writeHead } from "./adapterhub-head.ts";
import { parseExactJson, writeExactJson } from "./exact-json.ts";
import { isJsonObject, type JsonObject, parseJson, readJsonObject } from "./json.ts";
import { writeFolder } from "./outputs/index.ts";
import { pickleRefused } from "./pickle.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage } from "./storage.ts";
import { readText } from "./text.ts";

/*
 * Adapters as AdapterHub's `adapters` (1.2) keeps them: `adapter_config.json` with the adapter's own config inside, and
 * `adapter.safetensors`. The name of the config is PEFT's too, but a PEFT config has a `peft_type`.
 */

/** Module that ends a sublayer -> our names of the adapter's tensors. */
export type AdapterHubTensors<T> = ReadonlyMap<string, Readonly<Record<string, T>>>;

/** The modules that end a model's sublayers. */
export interface SublayerEnds {
  readonly attention: readonly string[];
  readonly crossAttention: readonly string[];
  readonly feedForward: readonly string[];
}

/** What a folder says that decides nothing it computes. */
export interface AdapterHubOrigin {
  /** `adapter_config.json` as it stands. */
  readonly config: string;
  /** `head_config.json` as it stands. */
  readonly head?: string;
  /** Whether the names of tensors start with the base model's name in the class it was made for, such as `transformer.`. */
  readonly rooted: boolean;
}

/** An adapter folder's contents. */
export interface AdapterHubAdapter<T> {
  readonly settings: AdapterHubSettings;
  readonly tensors: AdapterHubTensors<T>;
  /** The slow rule that all share. */
  readonly rule?: T;
  /** Weights of the base model that were trained beside it, in a file of our own: the format has no place for them. */
  readonly base: ReadonlyMap<string, T>;
  /** The prediction head beside it, by the names that the model has for its weights. */
  readonly head: ReadonlyMap<string, T>;
  /** What that head calls its labels, by number. */
  readonly labels?: readonly string[];
}

/** What reading needs to know of the model. */
export interface AdapterHubModel {
  readonly ends: SublayerEnds;
  readonly hiddenSize: number;
  /** Names of activations that are built. */
  readonly activations: readonly string[];
}

const configFile = "adapter_config.json";
const weightsFile = "adapter.safetensors";
const baseFile = "base_weights.safetensors";
const kinds = ["attention", "crossAttention", "feedForward"] as const;

/** Our names of an adapter's tensors -> theirs behind `adapter_down.0.` and `adapter_up.`. */
function spellingsOf({ kind, sharedRule, factorised }: AdapterHubSettings): Readonly<Record<string, string>> {
  if (kind === "dense") return { weight: "weight", bias: "bias" };
  return {
    ...(sharedRule ? {} : { rule: "phm_rule" }),
    ...(factorised ? { left: "W_left", right: "W_right" } : { fast: "W" }),
    bias: "b",
  };
}
const sides = { down: "adapter_down.0", up: "adapter_up" } as const;

/** Whether a folder holds an adapter of AdapterHub. */
export async function isAdapterHub(storage: Storage, folder: string): Promise<boolean> {
  if (!(await storage.list(folder)).includes(configFile)) return false;
  const config = await readJsonObject(storage, joinPath(folder, configFile));
  return config["config"] !== undefined && config["peft_type"] === undefined;
}

/** Where the adapter behind a module hangs. */
function placeOf(module: string, kind: keyof SublayerEnds): string {
  if (module.endsWith(".output.dense")) return `${module.slice(0, -".dense".length)}.adapters`; // BERT and its kind
  const t5 = /^(encoder|decoder)\.block\.\d+\.layer\.\d+/.exec(module)?.[0];
  if (t5 !== undefined) return `transformer.${t5}.adapters`;
  return `${layerOf(module)}.${kind === "feedForward" ? "output" : "attention"}_adapters.adapters`;
}

/** A name as in the class that the base model has to itself. */
function unrooted(place: string): string {
  return place.slice(place.indexOf(".") + 1);
}

function layerOf(module: string): string {
  return /^.*?\.\d+/.exec(module)?.[0] ?? module;
}

/** Layers in the order in which AdapterHub counts them: an encoder's before the decoder's. */
export function layersOf(ends: SublayerEnds): readonly string[] {
  const layers = [...new Set(kinds.flatMap((kind) => ends[kind].map(layerOf)))];
  const key = (layer: string): readonly [side: number, at: number] => [
    Number(layer.startsWith("decoder.")),
    Number(layer.slice(layer.lastIndexOf(".") + 1)),
  ];
  return layers.sort((a, b) => {
    const [[sideA, atA], [sideB, atB]] = [key(a), key(b)];
    return sideA - sideB || atA - atB;
  });
}

/** The number of the layer that a module is of. */
export function layerNumber(ends: SublayerEnds, module: string): number {
  return layersOf(ends).indexOf(layerOf(module));
}

function placesOf(ends: SublayerEnds): ReadonlyMap<string, string> {
  return new Map(kinds.flatMap((kind) => ends[kind].map((module) => [module, placeOf(module, kind)] as const)));
}

/** The modules that have adapters. */
export function adaptedEnds(settings: AdapterHubSettings, ends: SublayerEnds): readonly string[] {
  return kinds.flatMap((kind) =>
    settings[kind] ? ends[kind].filter((module) => !settings.leftOut.includes(layerNumber(ends, module))) : [],
  );
}

/**
 * Open an adapter folder, given where the model's sublayers end.
 * @throws {TuneError} `adapterhub-bad-adapter` with everything that is wrong, a shared rule that is missing among it (which
 * AdapterHub draws anew, so that the adapter does nothing); `pickle-refused`; what `openSafetensors` throws.
 */
export async function readAdapterHub(
  storage: Storage,
  folder: string,
  { ends, hiddenSize, activations }: AdapterHubModel,
): Promise<AdapterHubAdapter<LazyTensor> & { readonly origin: AdapterHubOrigin }> {
  const configPath = joinPath(folder, configFile);
  const json = await readJsonObject(storage, configPath);
  const settings = settingsOf(json, configPath, activations);
  const names = await storage.list(folder);
  if (!names.includes(weightsFile)) {
    if (names.includes("pytorch_adapter.bin")) {
      throw pickleRefused(folder, "pytorch_adapter.bin", "save it with use_safetensors=True");
    }
    throw new TuneError("file-not-found", `${folder} has no ${weightsFile}.`, { at: folder, fix: "check the path" });
  }
  const path = joinPath(folder, weightsFile);
  const { tensors } = await openSafetensors(storage, path);
  const modulesAt = new Map(
    [...placesOf(ends)].flatMap(([module, place]) => [
      [place, module],
      [unrooted(place), module],
    ]),
  );
  const rootedPlaces = new Set(placesOf(ends).values());
  const modules = new Map<string, Record<string, LazyTensor>>();
  const problems: Problem[] = [];
  const bad = (what: string, fix = "save the adapter again with AdapterHub's adapters"): void => {
    problems.push({ code: "adapterhub-bad-adapter", what, fix });
  };
  const { hidden_size: width } = json;
  if (width !== undefined && width !== hiddenSize) {
    bad(`it is for models ${width} wide, and the model is ${hiddenSize} wide.`, "use the model that it was made for");
  }
  const spellings = Object.entries(spellingsOf(settings));
  let rule: LazyTensor | undefined;
  let rooted = true;
  for (const [key, tensor] of tensors) {
    if (settings.sharedRule && /(^|\.)shared_parameters\.[^.]+\.phm_rule$/.test(key)) {
      rule = tensor;
      continue;
    }
    const [, place = "", called = "", side = "", part = ""] =
      /^(.*\.adapters)\.([^.]+)\.(adapter_down\.0|adapter_up)\.(.+)$/.exec(key) ?? [];
    const module = called === (json["name"] ?? called) ? modulesAt.get(place) : undefined;
    const own = spellings.find(([, spelling]) => spelling === part)?.[0];
    if (module === undefined || own === undefined) {
      bad(`${key} belongs to nothing in the model.`);
      continue;
    }
    rooted = rootedPlaces.has(place);
    const parts = modules.get(module) ?? {};
    parts[`${own}_${side === sides.up ? "up" : "down"}`] = tensor;
    modules.set(module, parts);
  }
  const expected = adaptedEnds(settings, ends);
  for (const module of expected) if (!modules.has(module)) bad(`there is no adapter behind ${module}.`);
  for (const module of modules.keys()) {
    if (!expected.includes(module)) bad(`there is an adapter behind ${module}, where the config has none.`);
  }
  const unsized = expected.find((module) => settings.reductions[layerNumber(ends, module)] === undefined);
  if (missesDefault(json) && unsized !== undefined) bad(`reduction_factor says nothing of the layer of ${unsized}.`);
  if (settings.sharedRule && rule === undefined) {
    const lost = "the shared phm_rule is missing.";
    if (rooted) bad(lost);
    else {
      const { model_class: made = "the class it was made with" } = json;
      bad(
        `${lost} AdapterHub does not save it with ${String(made)}, and draws another when it loads the adapter.`,
        "put shared_parameters.<name>.phm_rule of the tuned model's state dict into the file, or tune an AdapterModel class, which saves it",
      );
    }
  }
  const head = await readHead(storage, folder, names, problems);
  throwProblems(problems, path);
  const base = names.includes(baseFile) ? (await openSafetensors(storage, joinPath(folder, baseFile))).tensors : [];
  return {
    settings,
    tensors: modules,
    ...(rule ? { rule } : {}),
    base: new Map(base),
    head: head?.tensors ?? new Map(),
    ...(head?.labels ? { labels: head.labels } : {}),
    origin: {
      config: await readText(storage, configPath),
      ...(head ? { head: head.config } : {}),
      rooted,
    },
  };
}

/** Write a folder that `model.load_adapter(folder)` of AdapterHub reads; it replaces what was there whole. */
export async function writeAdapterHub(
  storage: Storage,
  folder: string,
  adapter: AdapterHubAdapter<Tensor>,
  {
    ends,
    activations,
    beside,
    origin,
    ...model
  }: AdapterHubModel & {
    readonly className: string;
    readonly modelType: string;
    readonly baseModel: string;
    /** What the folder said that it was read from. */
    readonly origin?: AdapterHubOrigin;
    /** Other JSON files of the folder, by name. */
    readonly beside: Readonly<Record<string, JsonObject>>;
  },
): Promise<void> {
  const { settings, tensors, rule, base, head } = adapter;
  const config = configText(settings, model, { origin, activations });
  const name = nameIn(config);
  const places = placesOf(ends);
  const spelled = (place: string): string => (origin?.rooted === false ? unrooted(place) : place);
  const entries: NamedTensor[] = [];
  for (const [module, own] of tensors) {
    const place = places.get(module);
    if (place === undefined) throw new Error(`${module} ends no sublayer`);
    for (const [side, prefix] of Object.entries(sides)) {
      for (const [key, spelling] of Object.entries(spellingsOf(settings))) {
        const tensor = own[`${key}_${side}`];
        if (!tensor) throw new Error(`${module} has no ${key}_${side}`);
        entries.push({ name: `${spelled(place)}.${name}.${prefix}.${spelling}`, tensor });
      }
    }
  }
  const [root = ""] = [...places.values()][0]?.split(".") ?? [];
  if (rule) entries.push({ name: spelled(`${root}.shared_parameters.${name}.phm_rule`), tensor: rule });
  await writeFolder(storage, folder, "adapterhub", async (staging) => {
    await storage.write(joinPath(staging, configFile), config);
    await writeSafetensors(storage, joinPath(staging, weightsFile), entries);
    for (const [file, json] of Object.entries(beside)) {
      await storage.write(joinPath(staging, file), `${JSON.stringify(json, null, 2)}\n`);
    }
    if (head.size > 0 && origin?.head !== undefined) await writeHead(storage, staging, origin.head, head);
    const trained = [...base].map(([weight, tensor]) => ({ name: weight, tensor }));
    if (trained.length > 0) await writeSafetensors(storage, joinPath(staging, baseFile), trained);
  });
}

/** The text of `adapter_config.json`: as it was read, where it says what there is to say. */
function configText(
  settings: AdapterHubSettings,
  model: {
    readonly hiddenSize: number;
    readonly className: string;
    readonly modelType: string;
    readonly baseModel: string;
  },
  { origin, activations }: { readonly origin: AdapterHubOrigin | undefined; readonly activations: readonly string[] },
): string {
  const kept = origin && (parseExactJson(origin.config) as JsonObject); // an object when it was read
  if (origin && kept) {
    const before = settingsOf(parseJson(origin.config) as JsonObject, configFile, activations);
    if (sorted(before) === sorted(settings)) return origin.config;
  }
  const made = {
    hidden_size: model.hiddenSize,
    model_class: `${model.className.replace(/(For|LMHead).*$/, "")}AdapterModel`,
    model_name: model.baseModel,
    model_type: model.modelType,
    name: "scion",
    version: "adapters.1.2.0",
  };
  const own = kept && isJsonObject(kept["config"]) ? kept["config"] : {};
  const json = { ...made, ...kept, version: made.version, config: configOf(settings, own) };
  return writeExactJson(inOrder(json), 2);
}

function nameIn(config: string): string {
  const { name } = parseJson(config) as { readonly name?: unknown };
  return typeof name === "string" ? name : "scion";
}

/** Keys in the order of Python's `sort_keys`. */
function inOrder(json: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(json)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, value]) => [
        key,
        isJsonObject(value) && Object.getPrototypeOf(value) === Object.prototype ? inOrder(value) : value,
      ]),
  );
}

function sorted(settings: AdapterHubSettings): string {
  return JSON.stringify(inOrder({ ...settings }));
}

export type { AdapterHubHead, AdapterHubSettings };
