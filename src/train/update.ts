import { assert } from "../errors.ts";
import { type InputValue, input, type ParameterValue, parameter, sizeOf, type Value } from "../graph/index.ts";
import {
  type Attached,
  configAt,
  type MethodChoice,
  type MethodConfig,
  type Trainable,
  type TrainedSite,
} from "../methods/index.ts";
import { add, concat, maxSplitParts, reshape, split } from "../ops/index.ts";
import { clipByGlobalNorm, globalNorm, type OptimizerChoice, type StateSpec } from "../optim/index.ts";
import type { Patch } from "../runtime/device.ts";
import { differentiate } from "../transforms/index.ts";
import { columnsToWrite } from "./live-weights.ts";

/** The graph of an update: outputs, the buffers they replace, and the buffers it starts with zeros. */
export interface Update {
  readonly outputs: Readonly<Record<string, Value>>;
  readonly writes: Readonly<Record<string, string>>;
  readonly state: readonly ParameterValue[];
  /** Outputs that the method reports of an update: `penalty`, and what its hooks name. */
  readonly reports: readonly string[];
  /** Output -> the part of a buffer that it replaces. */
  readonly patches: Readonly<Record<string, Patch>>;
}

/** The buffer of an optimiser tensor. */
export function stateName(parameterName: string, state: string): string {
  return `${parameterName}#${state}`;
}

/** Parameters larger than this are updated by themselves: a copy would cost more than the operators it saves. */
const largestPacked = 32768;
/** Packs grow to about this many elements, which stay in a processor's cache between one operator and the next. */
const packSize = 65536;

/**
 * Clip gradients by their global norm and update every parameter, with what the method adds to an update: its penalty's
 * gradients before, its own bookkeeping after. Small parameters are packed end to end and updated as one vector, so that
 * a hundred adapters do not take thousands of operators; the optimiser's state stays packed.
 */
export function updateOutputs(
  { trainables: all, live }: Pick<Attached, "trainables" | "live">,
  gradients: readonly Value[],
  options: { readonly choice: MethodChoice; readonly maxGradNorm: number; readonly optimizer: OptimizerChoice },
): Update {
  const { choice } = options;
  const { optimizer, config } = options.optimizer;
  const trainables = all.filter(({ trained }) => trained);
  const { name: method, training: hooks = {} } = choice.method;
  const outputs: Record<string, Value> = {};
  const writes: Record<string, string> = {};
  const state: ParameterValue[] = [];
  const reports: string[] = [];
  const put = (buffer: string, value: Value): void => {
    outputs[`next ${buffer}`] = value;
    writes[`next ${buffer}`] = buffer;
  };
  const kept = (name: string, { dtype, shape }: StateSpec): ParameterValue => {
    const value = parameter(name, dtype, shape);
    state.push(value);
    return value;
  };
  const report = (name: string, value: Value): void => {
    outputs[name] = value;
    reports.push(name);
  };
  const scalars = new Map<string, InputValue>();
  const scalar = (name: string): Value => {
    const made = scalars.get(name) ?? input(name, "float32", []);
    scalars.set(name, made);
    return made;
  };

  const before = new Map(trainables.map((trainable): [Trainable, Value] => [trainable, trainable.value]));
  const penalty = hooks.penalty?.(sitesOf(choice, before), choice.config);
  if (penalty) report("penalty", penalty);
  const values = trainables.map(({ value }) => value);
  const pulls = penalty && differentiate(penalty, values);
  const whole = pulls ? gradients.map((gradient, i) => add(gradient, pulls[i] as Value)) : gradients; // one a parameter

  const packs = packsOf(trainables).map((members) => ({
    members: members.map((i) => trainables[i] as Trainable), // indices of trainables
    gradient: flatten(members.map((i) => whole[i] as Value)), // one gradient a parameter
  }));
  const packed = packs.map(({ gradient }) => gradient);
  const norm = globalNorm(packed);
  const clipped = options.maxGradNorm > 0 ? clipByGlobalNorm(packed, norm, options.maxGradNorm) : packed;
  outputs["grad_norm"] = norm;
  const after = new Map<Trainable, Value>();
  const scores = new Map<Trainable, Value>();
  packs.forEach(({ members }, i) => {
    const [first] = members as [Trainable]; // a pack has members
    const gradient = clipped[i] as Value; // one gradient a pack
    const shape = gradient.shape.map(Number);
    const stateOf = (specs: Readonly<Record<string, StateSpec>>): ((name: string) => Value) => {
      const own = new Map(
        Object.entries(specs).map(([name, spec]) => [name, kept(stateName(first.value.name, name), spec)]),
      );
      return (name) => own.get(name) as Value; // one of the names
    };
    const { decays, rate, inPlace } = ruleOf(first);
    const next = optimizer.update(
      {
        parameter: flatten(members.map(({ value }) => value)),
        gradient,
        state: stateOf(optimizer.state(shape, config)),
        scalar,
        decays,
        rate,
      },
      config,
    );
    const track = inPlace ? undefined : hooks.track;
    const tracked = track?.update(
      {
        parameter: next.parameter,
        gradient,
        state: stateOf(Object.fromEntries(track.state.map((name) => [name, { dtype: "float32", shape }]))),
        scalar,
      },
      choice.config,
    );
    for (const [name, tensor] of Object.entries({ ...next.state, ...tracked?.state }))
      put(stateName(first.value.name, name), tensor);
    unflatten(next.parameter, members).forEach((value, j) => {
      after.set(members[j] as Trainable, value); // one value a member
    });
    if (tracked)
      unflatten(tracked.score, members).forEach((value, j) => {
        scores.set(members[j] as Trainable, value); // likewise
      });
  });
  const scored = sitesOf(choice, scores);
  const unscored = (): never => {
    throw new Error(`${method} settles by scores that it does not track`);
  };
  const settled = hooks.settle?.(
    sitesOf(choice, after).map((site, i) => ({ ...site, score: scored[i]?.parameter ?? unscored })),
    { scalar, state: (name, shape) => kept(stateName(method, name), { dtype: "float32", shape }) },
    choice.config,
  );
  for (const [trainable, value] of after) {
    put(trainable.value.name, settled?.parameters.get(trainable.module)?.[trainable.key] ?? value);
  }
  for (const [name, value] of Object.entries(settled?.state ?? {})) put(stateName(method, name), value);
  for (const [name, value] of Object.entries(settled?.reports ?? {})) report(name, value);
  const patches: Record<string, Patch> = {};
  for (const weight of live) {
    if (weight.leaf.kind !== "parameter") continue;
    const own = (key: string): Value => {
      const found = trainables.find(
        ({ module, inPlace, key: name }) => module === weight.module && !inPlace && name === key,
      );
      const value = found && (settled?.parameters.get(found.module)?.[key] ?? after.get(found));
      assert(value !== undefined, `${weight.module} has no trained tensor ${key}`);
      return value;
    };
    const { output, patch } = columnsToWrite(weight, own);
    outputs[`columns ${weight.leaf.name}`] = output;
    patches[`columns ${weight.leaf.name}`] = patch;
  }
  return { outputs, writes, state, reports, patches };
}

/** The method's trained tensors by module, each as the value given for it; what is trained in place is not its business. */
function sitesOf(choice: MethodChoice, values: ReadonlyMap<Trainable, Value>): readonly TrainedSite<MethodConfig>[] {
  const sites = new Map<string, Map<string, Value>>();
  for (const [{ module, key, inPlace }, value] of values) {
    if (inPlace) continue;
    const own = sites.get(module) ?? new Map<string, Value>();
    sites.set(module, own.set(key, value));
  }
  return [...sites].map(([module, own]) => ({
    module,
    config: configAt(choice, module),
    parameter: (key) => {
      const value = own.get(key);
      assert(value !== undefined, `${module} has no trained tensor ${key}`);
      return value;
    },
  }));
}

/** What decides how a parameter is updated, besides the run. */
function ruleOf({ decays, rate, inPlace }: Trainable): Pick<Trainable, "decays" | "rate" | "inPlace"> {
  return { decays, rate, inPlace };
}

/** Indices of the parameters that are updated together, in their order. */
function packsOf(trainables: readonly Trainable[]): readonly (readonly number[])[] {
  const packs: number[][] = [];
  const open = new Map<string, { pack: number[]; size: number }>();
  trainables.forEach((trainable, i) => {
    const { value } = trainable;
    const rule = JSON.stringify(ruleOf(trainable));
    const size = sizeOf(value.shape.map(Number));
    const current = open.get(rule);
    if (size > largestPacked) packs.push([i]);
    else if (current && current.pack.length < maxSplitParts && current.size + size <= packSize) {
      current.pack.push(i);
      current.size += size;
    } else {
      const pack = [i];
      packs.push(pack);
      open.set(rule, { pack, size });
    }
  });
  return packs;
}

/** End to end as one vector; a single value stays as it is. */
function flatten(values: readonly Value[]): Value {
  const [first] = values as [Value]; // never empty
  if (values.length === 1) return first;
  return concat(
    values.map((value) => reshape(value, [sizeOf(value.shape.map(Number))])),
    0,
  );
}

function unflatten(packed: Value, members: readonly Trainable[]): readonly Value[] {
  if (members.length === 1) return [packed];
  const shapes = members.map(({ value }) => value.shape.map(Number));
  return split(packed, shapes.map(sizeOf), 0).map((part, i) => reshape(part, shapes[i] as number[])); // a part a member
}
