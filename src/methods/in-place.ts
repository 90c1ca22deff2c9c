import { nearest, TuneError } from "../errors.ts";
import {
  graph,
  type Node,
  type ParameterValue,
  parameter,
  type Value,
  type WeightValue,
  weight,
} from "../graph/index.ts";
import { linearOf } from "./linear.ts";
import { rowsFor, type TokenRows, type TrainedRows, tokenRowsKey, withTrainedRows } from "./token-rows.ts";

/** Weights of the model that are trained where they stand, besides what a method adds. */
export interface InPlace {
  /**
   * Every weight of these modules and of what is inside them, by the ends of their paths (PEFT's `modules_to_save`).
   * A method attaches to none of them.
   */
  readonly modules: readonly string[];
  /** Biases: none, those of the maps that a method attaches to, or all of the model's. */
  readonly biases: "none" | "adapted" | "all";
  /** Tokens whose rows are trained in embeddings and output layers, by module (PEFT's `trainable_token_indices`). */
  readonly tokens?: TokenRows;
}

/** A weight that is trained where a module reads it. */
export interface WeightInPlace {
  readonly value: ParameterValue;
  readonly module: string;
  readonly weight: WeightValue;
  /** The rows of the weight that are trained; all of it unless given. */
  readonly rows?: readonly number[];
}

/** Weights that are trained in place. */
export interface WeightsInPlace {
  readonly all: readonly WeightInPlace[];
  /**
   * What stands at an input of a node instead: the trained tensor; or the weight, under a name of its own, for a module
   * that shares with the trained one what it reads.
   */
  readonly at: (node: Node, index: number) => ParameterValue | WeightValue | undefined;
  /** What a node gives where rows of a weight that it reads are trained, from what it gives of these inputs otherwise. */
  readonly after: (
    node: Node,
    inputs: readonly (Value | undefined)[],
    results: readonly Value[],
  ) => readonly Value[] | undefined;
}

/**
 * The module that reads a weight at an input of a node: the linear map itself for its matrix, even when the matrix is
 * another module's too (tied embeddings); otherwise the module that the weight is named for.
 */
function readerOf(node: Node, index: number, weight: WeightValue): string {
  return linearOf(node)?.weight === node.inputs[index] ? node.scope : ownerOf(weight);
}

/** The module that a weight is named for. */
function ownerOf({ name }: WeightValue): string {
  return name.slice(0, Math.max(0, name.lastIndexOf(".")));
}

/** The name of a weight as one module reads it: its own, or another for a module that borrows it. */
export function nameInModule(module: string, { name }: { readonly name: string }): string {
  return name.startsWith(`${module}.`) ? name : `${module}.weight`;
}

/** The modules that read each weight. */
export function readersOfWeights(
  outputs: Readonly<Record<string, Value>>,
): ReadonlyMap<WeightValue, ReadonlySet<string>> {
  const readers = new Map<WeightValue, Set<string>>();
  for (const node of graph({ outputs }).nodes) {
    node.inputs.forEach((value, i) => {
      if (value?.kind !== "weight") return;
      const known = readers.get(value) ?? new Set();
      readers.set(value, known.add(readerOf(node, i, value)));
    });
  }
  return readers;
}

/** Whether a module is one of those named, or inside one. */
export function isInPlace({ modules }: InPlace, module: string): boolean {
  return modules.some((name) => endsOfPath(module, name));
}

/** Whether some module around `module`, or itself, ends with `name`. */
export function endsOfPath(module: string, name: string): boolean {
  const parts = module.split(".");
  return parts.some((_, i) => `.${parts.slice(0, i + 1).join(".")}`.endsWith(`.${name}`));
}

/**
 * Find the weights that are trained in place. `adapted` are the modules that a method attaches to.
 * @throws {TuneError} `unknown-target-modules` for names that no module has; `bad-option` for biases where there are none.
 */
export function weightsInPlace(
  outputs: Readonly<Record<string, Value>>,
  inPlace: InPlace | undefined,
  adapted: ReadonlySet<string>,
): WeightsInPlace {
  if (inPlace === undefined) return { all: [], at: () => undefined, after: () => undefined };
  const chosen = new Map<string, WeightInPlace>();
  const readers = readersOfWeights(outputs);
  let biases = 0;
  for (const [read, modules] of readers) {
    for (const module of modules) {
      const isBias = read.name.endsWith(".bias");
      const asBias = isBias && (inPlace.biases === "all" || (inPlace.biases === "adapted" && adapted.has(module)));
      if (asBias) biases += 1;
      if (!asBias && !isInPlace(inPlace, module)) continue;
      const name = nameInModule(module, read);
      chosen.set(name, { value: parameter(name, "float32", read.shape.map(Number)), module, weight: read });
    }
  }
  const all = [...chosen.values()];
  refuseUnknown(inPlace.modules, [...new Set([...readers.values()].flatMap((modules) => [...modules]))]);
  if (inPlace.biases !== "none" && biases === 0) {
    throw new TuneError("bad-option", `The model has no ${inPlace.biases === "all" ? "" : "such "}biases to train.`, {
      at: `biases: ${inPlace.biases}`,
      fix: "leave biases at none",
    });
  }
  const apart = new Map<string, WeightValue>();
  const rows = trainedRows(readers, inPlace, new Set([...chosen.values()].map((whole) => whole.weight)), adapted);
  return {
    all: [...all, ...rows.values()],
    at: (node, index) => {
      const value = node.inputs[index];
      if (value?.kind !== "weight") return undefined;
      const name = nameInModule(readerOf(node, index, value), value);
      const found = chosen.get(name);
      if (found) return found.value;
      if (name === value.name || !chosen.has(value.name)) return undefined;
      const own = apart.get(name) ?? weight(name, value.source);
      apart.set(name, own);
      return own;
    },
    after: (node, inputs, [y, ...others]) => {
      const found = node.inputs.map((value) => value && rows.get(value)).find((own) => own !== undefined);
      return found && y && [withTrainedRows(node, inputs, y, found), ...others];
    },
  };
}

/** The weights of which some tokens' rows are trained. */
function trainedRows(
  readers: ReadonlyMap<WeightValue, ReadonlySet<string>>,
  { tokens = {} }: InPlace,
  whole: ReadonlySet<WeightValue>,
  adapted: ReadonlySet<string>,
): ReadonlyMap<Value, TrainedRows> {
  const rows = new Map<Value, TrainedRows>();
  for (const [read, modules] of readers) {
    const own = rowsFor(tokens, read, modules);
    if (own === undefined) continue;
    const module = ownerOf(read);
    const rival = whole.has(read) ? module : [...modules].find((reader) => adapted.has(reader));
    if (rival !== undefined) {
      throw new TuneError("bad-option", `${rival} is tuned otherwise already, and tokens of it are to be trained.`, {
        at: "trained tokens",
        fix: `leave ${rival} out of the target modules and of the modules to save, or train no single tokens`,
      });
    }
    const value = parameter(`${module}.${tokenRowsKey}`, "float32", [own.length, Number(read.shape[1])]);
    rows.set(read, { value, module, weight: read, rows: own });
  }
  refuseUnknown(Object.keys(tokens), [...new Set([...readers.values()].flatMap((modules) => [...modules]))]);
  return rows;
}

function refuseUnknown(named: readonly string[], modules: readonly string[]): void {
  const unknown = named.filter((name) => !modules.some((module) => endsOfPath(module, name)));
  if (unknown.length === 0) return;
  const ends = [...new Set(modules.flatMap((module) => module.split(".")))].filter((part) => !/^\d*$/.test(part));
  const what = unknown.map((name) => {
    const near = nearest(name.split(".").at(-1) ?? name, ends);
    return `No module with weights is called "${name}"${near.length > 0 ? ` (nearest: ${near.join(", ")})` : ""}.`;
  });
  throw new TuneError("unknown-target-modules", what, {
    at: "modules trained in place",
    fix: `choose among ${ends.join(", ")}`,
  });
}
