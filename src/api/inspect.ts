import { TuneError } from "../errors.ts";
import { sizeOf } from "../graph/index.ts";
import { readJsonObject } from "../io/json.ts";
import { readMlxAdapter } from "../io/mlx.ts";
import { openModelWeights } from "../io/model-weights.ts";
import { openOnnx } from "../io/onnx/read.ts";
import { putBack } from "../io/outputs/index.ts";
import { type PackedFile, type PackedShape, packedSize } from "../io/packed/index.ts";
import { describeQuantisation, openQuantised } from "../io/quantised/index.ts";
import { openSafetensors, type Safetensors } from "../io/safetensors.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { loadTokenizer } from "../io/tokenizer.ts";
import { openModel } from "../models/index.ts";
import { readDataset } from "../train/data/index.ts";

import { findRuns } from "./runs.ts";

/** What a file or folder holds, ready to be shown. */
export interface Inspection {
  readonly kind: string;
  /** Label and value. */
  readonly facts: readonly (readonly [string, string])[];
  /** One line a tensor, or the like. */
  readonly rows: readonly string[];
}

/** What can be recognised: how, and what there is to say. */
interface Recogniser {
  readonly matches: (path: string, names: ReadonlySet<string>) => boolean;
  readonly inspect: (storage: Storage, path: string) => Promise<Inspection>;
}

const recognisers: readonly Recogniser[] = [
  { matches: (_path, names) => names.has("adapters.safetensors"), inspect: inspectMlxAdapter },
  {
    matches: (_path, names) => names.has("adapter_config.json") && !names.has("adapter_model.safetensors"),
    inspect: inspectOtherAdapter,
  },
  { matches: (_path, names) => names.has("adapter_config.json"), inspect: inspectAdapter },
  { matches: (_path, names) => names.has("scales.safetensors"), inspect: inspectOtherAdapter },
  { matches: (_path, names) => names.has("metrics.jsonl") || names.has("run.json"), inspect: inspectRun },
  { matches: (_path, names) => names.has("config.json"), inspect: inspectModel },
  { matches: (path) => path.endsWith(".safetensors"), inspect: inspectSafetensors },
  { matches: (path) => path.endsWith(".onnx"), inspect: inspectOnnx },
  { matches: (path) => /\.(jsonl|ndjson|json|csv|tsv|parquet|txt)$/.test(path), inspect: inspectData },
];

/**
 * Say what a file or folder holds: a model, an adapter, a run, safetensors, an ONNX model, or training data.
 * @throws {TuneError} `unknown-content` when it is none of these, and what reading it throws.
 */
export async function inspect(storage: Storage, path: string): Promise<Inspection> {
  await putBack(storage, path);
  const names = new Set(await storage.list(path));
  const found = recognisers.find(({ matches }) => matches(path, names));
  if (found) return found.inspect(storage, path);
  const size = await storage.sizeBytes(path);
  if (size === undefined && names.size === 0) {
    throw new TuneError("file-not-found", `There is no ${path}.`, { at: path, fix: "check the path" });
  }
  throw new TuneError("unknown-content", "This is neither a model, an adapter, safetensors, ONNX nor training data.", {
    at: path,
    fix: "name a folder with config.json or adapter_config.json, the folder of a run, or a .safetensors, .onnx, .jsonl, .csv, .parquet or .txt file",
  });
}

async function inspectModel(storage: Storage, folder: string): Promise<Inspection> {
  const model = await openModel(storage, folder);
  const { sizes } = model;
  const { packed } = model;
  const files = packed?.tensors ?? (await openModelWeights(storage, folder));
  const dtypes = [...new Set([...files.values()].map(({ dtype }) => dtype))].join(", ");
  const tokenizer = await loadTokenizer(storage, folder).catch(() => undefined); // its absence is a fact, not an error
  return {
    kind: packed ? "packed model" : "model",
    facts: [
      ["architecture", model.modelType],
      ["parameters", model.parameterCount.toLocaleString("en-US")],
      ...(model.quantised.length > 0 ? [["quantised", describeQuantisation(model.quantised)] as const] : []),
      ["stored as", packed ? `packed matrices and ${dtypes}` : dtypes],
      ...(packed ? packedFacts(packed) : []),
      ["layers", String(sizes.layers)],
      ["hidden size", String(sizes.hiddenSize)],
      ["heads", `${sizes.heads} (${sizes.kvHeads} for keys and values, ${sizes.headDim} wide)`],
      ["vocabulary", String(sizes.vocabSize)],
      ["context", `${sizes.contextLength} tokens`],
      ["tokenizer", tokenizer ? `${tokenizer.vocabSize} tokens` : "none"],
      [
        "chat template",
        tokenizer && tokenizer.chatTemplates.size > 0 ? [...tokenizer.chatTemplates.keys()].join(", ") : "none",
      ],
      ...(model.leftOut.length > 0 ? [["not used", leftOut(model.leftOut)] as const] : []),
      ...(model.warnings.length > 0
        ? [["unknown in config.json", model.warnings.map(({ key }) => key).join(", ")] as const]
        : []),
    ],
    rows: packed ? [...packed.matrices].map(([name, { shape }]) => `${name}  ${showPacked(shape)}`) : [],
  };
}

/** Tensors that a model leaves out, by why nothing is lost without them. */
function leftOut(tensors: readonly { readonly name: string; readonly why: string }[]): string {
  const reasons = new Map<string, string[]>();
  for (const { name, why } of tensors) reasons.set(why, [...(reasons.get(why) ?? []), name]);
  const shown = ([first, ...more]: readonly string[]): string =>
    `${first}${more.length > 0 ? ` and ${more.length} more` : ""}`;
  return [...reasons].map(([why, names]) => `${shown(names)} (${why})`).join("; ");
}

function packedFacts({ info, matrices, sizeBytes }: PackedFile): readonly (readonly [string, string])[] {
  const shapes = [...matrices.values()].map(({ shape }) => shape);
  const weights = shapes.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  const bits = shapes.reduce((sum, shape) => sum + packedSize(shape).bitsPerWeight * shape.rows * shape.columns, 0);
  return [
    ["quantised by", String(info["method"] ?? "not said")],
    ["bits a packed weight", `${(bits / Math.max(1, weights)).toFixed(3)}, scales counted`],
    ["file", `${sizeBytes.toLocaleString("en-US")} bytes`],
  ];
}

function showPacked({ rows, columns, bits, coding, rowGroup, columnGroup, scaleKind, terms }: PackedShape): string {
  const scales = terms === undefined ? scaleKind : `${terms} powers of two`;
  return `[${rows}, ${columns}] ${bits} bits, ${coding}, scales of ${rowGroup} rows and ${columnGroup} columns in ${scales}`;
}

async function inspectAdapter(storage: Storage, folder: string): Promise<Inspection> {
  const config = await readJsonObject(storage, joinPath(folder, "adapter_config.json"));
  const file = await openSafetensors(storage, joinPath(folder, "adapter_model.safetensors"));
  const shown = (value: unknown): string => (Array.isArray(value) ? value.join(", ") : String(value ?? "not said"));
  return {
    kind: "PEFT adapter",
    facts: [
      ["type", shown(config["peft_type"])],
      ["base model", shown(config["base_model_name_or_path"])],
      ["rank", shown(config["r"])],
      ["alpha", shown(config["lora_alpha"])],
      ["target modules", shown(config["target_modules"])],
      ["parameters", parameterCount(file)],
    ],
    rows: tensorRows(file),
  };
}

/** An adapter of AdapterHub, or scales of a packed model: its safetensors, whatever they are called. */
async function inspectOtherAdapter(storage: Storage, folder: string): Promise<Inspection> {
  const names = await storage.list(folder);
  const files = await Promise.all(
    names
      .filter((name) => name.endsWith(".safetensors"))
      .map((name) => openSafetensors(storage, joinPath(folder, name))),
  );
  const config = names.includes("adapter_config.json")
    ? await readJsonObject(storage, joinPath(folder, "adapter_config.json"))
    : {};
  const tensors = new Map(files.flatMap((file) => [...file.tensors]));
  const facts = ["model_type", "model_name", "hidden_size", "version"].flatMap((name): [string, string][] =>
    typeof config[name] === "string" || typeof config[name] === "number" ? [[name, String(config[name])]] : [],
  );
  return {
    kind: names.includes("scales.safetensors") ? "scales of a packed model" : "AdapterHub adapter",
    facts: [...facts, ["parameters", parameterCount({ tensors })]],
    rows: files.flatMap(tensorRows),
  };
}

/** The folder of a run: what was tuned how, how far it came, and what it left. */
async function inspectRun(storage: Storage, folder: string): Promise<Inspection> {
  const names = await storage.list(folder);
  const run = (await findRuns(storage, folder)).find((found) => found.folder === folder);
  const options = Object.entries(run?.options ?? {});
  const said = (name: string): [string, string][] => {
    const value = run?.options?.[name];
    return value === undefined ? [] : [[name, String(value)]];
  };
  const left = names.filter((name) => ["adapter/", "model/", "checkpoint.safetensors"].includes(name));
  const adapter = names.includes("adapter/") ? await inspect(storage, joinPath(folder, "adapter")) : undefined;
  return {
    kind: "run",
    facts: [
      ...["model", "method", "objective", "learningRate"].flatMap(said),
      ["updates", String(run?.step ?? 0)],
      ...(run?.finalLoss === undefined ? [] : [["loss", run.finalLoss.toFixed(4)] as const]),
      ...(run?.best ? [["best validation", `${run.best.loss.toFixed(4)} at ${run.best.step}`] as const] : []),
      ["holds", left.length > 0 ? left.join(", ") : "no adapter and no checkpoint"],
      ...(adapter ? adapter.facts.map(([label, value]) => [`adapter: ${label}`, value] as const) : []),
    ],
    rows: options.map(([name, value]) => `${name}  ${JSON.stringify(value)}`),
  };
}

async function inspectMlxAdapter(storage: Storage, folder: string): Promise<Inspection> {
  const { settings } = await readMlxAdapter(storage, folder);
  const file = await openSafetensors(storage, joinPath(folder, "adapters.safetensors"));
  return {
    kind: "mlx-lm adapter",
    facts: [
      ["type", settings.dora ? "dora" : "lora"],
      ["rank", String(settings.rank)],
      ["scale", String(settings.scale)],
      ["parameters", parameterCount(file)],
    ],
    rows: tensorRows(file),
  };
}

async function inspectSafetensors(storage: Storage, path: string): Promise<Inspection> {
  const file = await openSafetensors(storage, path);
  const quantised = await quantisationOf(file, path);
  const metadata = Object.entries(file.metadata).map(([key, value]): [string, string] => [key, value.slice(0, 200)]);
  return {
    kind: "safetensors",
    facts: [
      ["tensors", String(file.tensors.size)],
      ["values", parameterCount(file)],
      ...(quantised === undefined ? [] : [["quantised", quantised] as const]),
      ...metadata,
    ],
    rows: tensorRows(file),
  };
}

/** How the matrices of a file are quantised, by their tensors alone; undefined for plain weights. */
async function quantisationOf({ tensors }: Safetensors, path: string): Promise<string | undefined> {
  try {
    const { quantised } = await openQuantised(tensors, undefined, path);
    return quantised.length > 0 ? describeQuantisation(quantised) : undefined;
  } catch (error) {
    if (error instanceof TuneError) return error.what; // what cannot be read can be shown all the same
    throw error;
  }
}

async function inspectOnnx(storage: Storage, path: string): Promise<Inspection> {
  const model = await openOnnx(storage, path);
  const initializers = [...model.initializers.values()];
  const shown = ({ name, dtype, shape }: (typeof model.inputs)[number]): string =>
    `${name} ${dtype} [${shape.map((dim) => dim ?? "?").join(", ")}]`;
  const counts = new Map<string, number>();
  for (const { op, domain } of model.nodes) {
    const name = domain === "" ? op : `${domain}.${op}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const external = new Set(initializers.flatMap((tensor) => tensor.external ?? []));
  return {
    kind: "ONNX model",
    facts: [
      ["producer", model.producer || "not said"],
      ["operator sets", [...model.opsets].map(([domain, version]) => `${domain || "ai.onnx"} ${version}`).join(", ")],
      ["inputs", model.inputs.map(shown).join("; ")],
      ["outputs", model.outputs.map(shown).join("; ")],
      ["initializers", `${initializers.length}, ${parameterCount({ tensors: model.initializers })} values`],
      ...(external.size > 0 ? [["weights beside it", [...external].join(", ")] as const] : []),
      ["nodes", model.nodes.length.toLocaleString("en-US")],
    ],
    rows: [...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([name, count]) => `${count} ${name}`),
  };
}

async function inspectData(storage: Storage, path: string): Promise<Inspection> {
  const { format, rows, ignoredKeys } = await readDataset(storage, path);
  return {
    kind: "training data",
    facts: [
      ["format", format.name],
      ["rows", rows.length.toLocaleString("en-US")],
      ...(ignoredKeys.length > 0 ? [["ignored keys", ignoredKeys.join(", ")] as const] : []),
    ],
    rows: rows.slice(0, 3).map(({ value }) => JSON.stringify(value).slice(0, 160)),
  };
}

function parameterCount({
  tensors,
}: {
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>;
}): string {
  return [...tensors.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0).toLocaleString("en-US");
}

function tensorRows({ tensors }: Safetensors): string[] {
  return [...tensors].map(([name, { dtype, shape }]) => `${name}  ${dtype} [${shape.join(", ")}]`);
}
