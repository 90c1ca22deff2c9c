import { assert, TuneError } from "../errors.ts";
import type { ParameterValue, Tensor, Value } from "../graph/index.ts";
import { rebuild, rewrite } from "../transforms/index.ts";
import type { Adapter } from "./adapter.ts";
import { adaptedModules, attach, parameterName, type Trainable, trainedInPlace } from "./attach.ts";
import { type InPlace, weightsInPlace } from "./in-place.ts";
import { initialTensor } from "./initial.ts";
import { configAt, type MethodChoice } from "./table.ts";

/** Adapters in one graph, of which one acts at a time: which one, the values of the parameters decide. */
export interface SideBySide {
  readonly outputs: Readonly<Record<string, Value>>;
  readonly parameters: readonly ParameterValue[];
  /** The values with which an adapter acts, or none does; by parameter name. */
  values(name: string | undefined): Promise<ReadonlyMap<string, Tensor>>;
}

/** A place in the graph: one adapter's, or that of several whose method brings them to common options. */
interface Slot {
  readonly choice: MethodChoice;
  readonly members: ReadonlyMap<string, Adapter>;
  readonly trainables: readonly Trainable[];
  readonly prefix: string;
}

/**
 * Attach several adapters. Where their method can bring them to common options they share one place; others get their
 * own, and compute nothing new while they rest: with the values that training starts from.
 */
export function attachSideBySide(
  outputs: Readonly<Record<string, Value>>,
  adapters: ReadonlyMap<string, Adapter>,
  outputModule: string,
): SideBySide {
  const modulesOf = (adapter: Adapter): readonly string[] => adaptedModules(outputs, { ...adapter, outputModule });
  refuseWholeModels(adapters);
  let attached = outputs;
  const slots = groupBySlot(adapters).map((members, i): Slot => {
    const all = [...members.values()];
    const targets = [...new Set(all.flatMap(modulesOf))];
    const choice = commonChoice(all, modulesOf);
    const prefix = i === 0 ? "" : `${i}:`;
    const result = attach(attached, { choice, targets, outputModule, training: false, prefix });
    attached = result.outputs;
    return { choice, members, trainables: result.trainables, prefix };
  });
  const whole = wholeWeights(attached, adapters, new Set([...adapters.values()].flatMap(modulesOf)));
  const resting = new Map<string, Promise<Tensor>>();
  const rest = (trainable: Trainable): Promise<Tensor> => {
    const known = resting.get(trainable.value.name) ?? initialTensor(trainable, 0);
    resting.set(trainable.value.name, known);
    return known;
  };
  return {
    outputs: whole.outputs,
    parameters: [...slots.flatMap(({ trainables }) => trainables), ...whole.trainables].map(({ value }) => value),
    values: async (name) => {
      const values = new Map<string, Tensor>();
      for (const slot of slots) {
        const member = name === undefined ? undefined : slot.members.get(name);
        for (const trainable of slot.trainables) {
          const own = member && memberTensor(slot, member, trainable);
          values.set(trainable.value.name, own ?? (await rest(trainable)));
        }
      }
      const acting = name === undefined ? undefined : adapters.get(name);
      for (const trainable of whole.trainables) {
        const own = acting?.parameters.get(trainable.value.name);
        values.set(trainable.value.name, own ?? (await rest(trainable)));
      }
      return values;
    },
  };
}

function refuseWholeModels(adapters: ReadonlyMap<string, Adapter>): void {
  const whole = [...adapters].find(([, { choice }]) => choice.method.attaches === "weight");
  if (whole === undefined || adapters.size === 1) return;
  throw new TuneError("bad-option", `${whole[0]} is a whole model, which takes the place of all weights.`, {
    at: [...adapters.keys()].join(", "),
    fix: "use it alone, or merge it and open the result as the base of the others",
  });
}

function groupBySlot(adapters: ReadonlyMap<string, Adapter>): readonly ReadonlyMap<string, Adapter>[] {
  const shared = new Map<string, Map<string, Adapter>>();
  for (const [name, adapter] of adapters) {
    const { method } = adapter.choice;
    const key = method.common ? method.name : `${method.name} of ${name}`;
    shared.set(key, (shared.get(key) ?? new Map()).set(name, adapter));
  }
  return [...shared.values()];
}

function commonChoice(adapters: readonly Adapter[], modulesOf: (adapter: Adapter) => readonly string[]): MethodChoice {
  const [first] = adapters as [Adapter]; // a slot has members
  const { inPlace: _inPlace, patterns, ...choice } = first.choice;
  const { common } = choice.method;
  if (!common) return { ...choice, ...(patterns ? { patterns } : {}) };
  const configs = adapters.flatMap((adapter) => modulesOf(adapter).map((module) => configAt(adapter.choice, module)));
  return { ...choice, config: common.config(configs) };
}

/** A tensor of an adapter as its slot has it; undefined where the adapter does not touch the module. */
function memberTensor(
  { choice, prefix }: Slot,
  adapter: Adapter,
  { module, key, value, inPlace }: Trainable,
): Tensor | undefined {
  if (inPlace) return adapter.parameters.get(value.name);
  const start = parameterName(module, choice.method.name, "");
  const own = [...adapter.parameters].filter(([name]) => name.startsWith(start));
  if (own.length === 0) return undefined;
  const tensors = Object.fromEntries(own.map(([name, values]) => [name.slice(start.length), values]));
  const { common } = choice.method;
  const from = configAt(adapter.choice, module);
  const found = (common ? common.tensors(tensors, from, choice.config) : tensors)[key];
  assert(found !== undefined, () => `${prefix}${module} has no ${key}`);
  return found;
}

/** The weights that any of the adapters trained whole, as parameters. */
function wholeWeights(
  outputs: Readonly<Record<string, Value>>,
  adapters: ReadonlyMap<string, Adapter>,
  adapted: ReadonlySet<string>,
): { readonly outputs: Readonly<Record<string, Value>>; readonly trainables: readonly Trainable[] } {
  const asked = [...adapters.values()].flatMap(({ choice: { inPlace } }) => (inPlace ? [inPlace] : []));
  if (asked.length === 0) return { outputs, trainables: [] };
  const biases = asked.map((inPlace) => inPlace.biases);
  const tokens = asked.flatMap((own) => (own.tokens ? [own.tokens] : []));
  if (tokens.some((own) => JSON.stringify(own) !== JSON.stringify(tokens[0]))) {
    throw new TuneError("bad-option", "Adapters that trained other tokens cannot stand side by side.", {
      at: [...adapters.keys()].join(", "),
      fix: "use one at a time",
    });
  }
  const union: InPlace = {
    ...(tokens[0] ? { tokens: tokens[0] } : {}),
    modules: [...new Set(asked.flatMap(({ modules }) => modules))],
    biases: biases.includes("all") ? "all" : biases.includes("adapted") ? "adapted" : "none",
  };
  const inPlace = weightsInPlace(outputs, union, adapted);
  const replaced = rewrite(Object.values(outputs), {
    node: (node, rewritten) => {
      const inputs = rewritten.map((value, i) => inPlace.at(node, i) ?? value);
      const results = inputs.every((value, i) => value === node.inputs[i]) ? node.outputs : rebuild(node, inputs);
      return inPlace.after(node, inputs, results) ?? results;
    },
  });
  return {
    outputs: Object.fromEntries(Object.keys(outputs).map((name, i) => [name, replaced[i] as Value])), // one an output
    trainables: inPlace.all.map(trainedInPlace),
  };
}
