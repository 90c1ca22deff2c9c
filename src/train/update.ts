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
import { add, mul } from "../ops/index.ts";
import { clipByGlobalNorm, globalNorm, type OptimizerChoice, type StateSpec } from "../optim/index.ts";
import type { Patch, Piece, Reads, Writes } from "../runtime/device.ts";
import { differentiate } from "../transforms/index.ts";
import { columnsToWrite, type LivePack, livePack } from "./live-weights.ts";
import { flatten, packShape, packsOf, ruleOf, unflatten } from "./packs.ts";

/** The graph of an update: outputs, the buffers they replace, and the buffers it starts with zeros. */
export interface Update {
  readonly outputs: Readonly<Record<string, Value>>;
  /** Inputs that read several parameters end to end. */
  readonly reads: Reads;
  readonly writes: Writes;
  readonly state: readonly ParameterValue[];
  /** Outputs that the method reports of an update: `penalty`, and what its hooks name. */
  readonly reports: readonly string[];
  /** Output -> the parts of buffers that it replaces. */
  readonly patches: Readonly<Record<string, readonly Patch[]>>;
  /** The weights of which these are columns. */
  readonly live: readonly LivePack[];
}

/** The buffer of an optimiser tensor. */
export function stateName(parameterName: string, state: string): string {
  return `${parameterName}#${state}`;
}

/** What private training adds to a pack of summed gradients: the names of its inputs. */
export const noiseInputs = { noise: (pack: string) => `${pack}#noise`, share: "batch_share" } as const;

/**
 * The gradients of private training: sums of clipped ones, which stand packed in buffers. Each gets its noise, a vector that is
 * fed, and is divided by the expected batch.
 */
export interface NoisedSums {
  /** The sums of a pack, by the name of its first tensor: a buffer. */
  readonly sumsOf: (name: string, shape: readonly number[]) => Value;
}

/**
 * Clip gradients by their global norm and update every parameter, with what the method adds to an update: its penalty's
 * gradients before, its own bookkeeping after. Small parameters are packed end to end and updated as one vector, so that
 * a hundred adapters do not take thousands of operators; the optimiser's state stays packed.
 */
export function updateOutputs(
  { trainables: all, live }: Pick<Attached, "trainables" | "live">,
  gradients: readonly Value[] | NoisedSums,
  options: {
    readonly choice: MethodChoice;
    readonly maxGradNorm: number;
    readonly optimizer: OptimizerChoice;
    readonly patches?: boolean;
  },
): Update {
  const { choice } = options;
  const { optimizer, config } = options.optimizer;
  const trainables = all.filter(({ trained }) => trained);
  const { name: method, training: hooks = {} } = choice.method;
  const outputs: Record<string, Value> = {};
  const reads: Record<string, readonly string[]> = {};
  const writes: Record<string, string | readonly Piece[]> = {};
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
  const ofPack = (members: readonly number[]): Value => {
    const own = members.map((i) => trainables[i] as Trainable); // indices of trainables
    const pull = pulls && flatten(members.map((i) => pulls[i] as Value)); // one a parameter
    if (!("sumsOf" in gradients)) {
      // Added before they are laid end to end, so that what is turned for both is turned once.
      return flatten(
        members.map((i) => (pulls ? add(gradients[i] as Value, pulls[i] as Value) : (gradients[i] as Value))),
      );
    }
    const noised = noisedSum(own, gradients, scalar(noiseInputs.share));
    return pull ? add(noised, pull) : noised; // the penalty knows no data
  };

  /** Parameters end to end, as the device holds them or else as the graph puts them together. */
  const joined = (values: readonly ParameterValue[]): Value => {
    const [first] = values as [ParameterValue]; // a pack has members
    if (values.length === 1 || !options.patches) return flatten(values);
    const name = `${first.name} and others`;
    reads[name] = values.map((value) => value.name);
    return parameter(name, "float32", [values.reduce((sum, { shape }) => sum + sizeOf(shape.map(Number)), 0)]);
  };

  const packs = packsOf(trainables).map((members) => ({
    members: members.map((i) => trainables[i] as Trainable), // indices of trainables
    gradient: ofPack(members),
  }));
  const packed = packs.map(({ gradient }) => gradient);
  const norm = globalNorm(packed);
  const clipped = options.maxGradNorm > 0 ? clipByGlobalNorm(packed, norm, options.maxGradNorm) : packed;
  outputs["grad_norm"] = norm;
  const after = new Map<Trainable, Value>();
  const scores = new Map<Trainable, Value>();
  const next = packs.map(({ members }, i): Value => {
    const [first] = members as [Trainable]; // a pack has members
    const parameters = members.map(({ value }) => value);
    const gradient = clipped[i] as Value; // one gradient a pack
    const shape = gradient.shape.map(Number);
    const stateOf = (specs: Readonly<Record<string, StateSpec>>): ((name: string) => Value) => {
      const own = new Map(
        Object.entries(specs).map(([name, spec]) => [name, kept(stateName(first.value.name, name), spec)]),
      );
      return (name) => own.get(name) as Value; // one of the names
    };
    const { decays, rate, inPlace } = ruleOf(first);
    const updated = optimizer.update(
      {
        parameter: joined(parameters),
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
        parameter: updated.parameter,
        gradient,
        state: stateOf(Object.fromEntries(track.state.map((name) => [name, { dtype: "float32", shape }]))),
        scalar,
      },
      choice.config,
    );
    for (const [name, tensor] of Object.entries({ ...updated.state, ...tracked?.state }))
      put(stateName(first.value.name, name), tensor);
    unflatten(updated.parameter, parameters).forEach((value, j) => {
      after.set(members[j] as Trainable, value); // one value a member
    });
    if (tracked)
      unflatten(tracked.score, parameters).forEach((value, j) => {
        scores.set(members[j] as Trainable, value); // likewise
      });
    return updated.parameter;
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
  const settledOf = ({ module, key }: Trainable): Value | undefined => settled?.parameters.get(module)?.[key];
  const patches: Record<string, readonly Patch[]> = {};
  const livePacks: LivePack[] = [];
  packs.forEach(({ members }, i) => {
    const values = members.map((member) => settledOf(member) ?? (after.get(member) as Value)); // every member is there
    const whole = members.some(settledOf) ? flatten(values) : (next[i] as Value); // a vector a pack
    const { name } = (members[0] as Trainable).value;
    if (members.length > 1 && options.patches) {
      outputs[`next ${name}`] = whole;
      writes[`next ${name}`] = members.map(({ value }) => ({ buffer: value.name, shape: value.shape.map(Number) }));
    } else {
      members.forEach(({ value }, j) => {
        put(value.name, values[j] as Value); // a value a member
      });
    }
    const written = livePack(
      members.map(({ value }) => value),
      live,
    );
    if (!written) return;
    livePacks.push(written);
    const columns = columnsToWrite(written, whole);
    outputs[`columns ${name}`] = columns.output;
    patches[`columns ${name}`] = columns.patches;
  });
  for (const [name, value] of Object.entries(settled?.state ?? {})) put(stateName(method, name), value);
  for (const [name, value] of Object.entries(settled?.reports ?? {})) report(name, value);
  return { outputs, reads, writes, state, reports, patches, live: livePacks };
}

/** The sums of a pack with their noise, divided by the expected batch. */
function noisedSum(members: readonly Trainable[], { sumsOf }: NoisedSums, share: Value): Value {
  const [first] = members as [Trainable]; // a pack has members
  const shape = packShape(members);
  const noise = input(noiseInputs.noise(first.value.name), "float32", shape);
  return mul(add(sumsOf(first.value.name, shape), noise), share);
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
