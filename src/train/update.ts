import { type InputValue, input, type ParameterValue, parameter, sizeOf, type Value } from "../graph/index.ts";
import type { Trainable } from "../methods/index.ts";
import { concat, maxSplitParts, reshape, split } from "../ops/index.ts";
import { type AdamWConfig, adamw, clipByGlobalNorm, globalNorm } from "../optim/index.ts";

/** The graph of an update: outputs, the buffers they replace, and the buffers it starts with zeros. */
export interface Update {
  readonly outputs: Readonly<Record<string, Value>>;
  readonly writes: Readonly<Record<string, string>>;
  readonly state: readonly ParameterValue[];
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
 * Clip gradients by their global norm and update every parameter. Small ones are packed end to end and updated as one
 * vector, so that a hundred adapters do not take thousands of operators; the optimiser's state stays packed.
 */
export function updateOutputs(
  trainables: readonly Trainable[],
  gradients: readonly Value[],
  options: { readonly maxGradNorm: number; readonly optimizer: AdamWConfig },
): Update {
  const packs = packsOf(trainables).map((members) => ({
    members: members.map((i) => (trainables[i] as Trainable).value), // indices of trainables
    ...ruleOf(trainables[members[0] as number] as Trainable), // and of the others
    gradient: flatten(members.map((i) => gradients[i] as Value)), // one gradient a parameter
  }));
  const packed = packs.map(({ gradient }) => gradient);
  const norm = globalNorm(packed);
  const clipped = options.maxGradNorm > 0 ? clipByGlobalNorm(packed, norm, options.maxGradNorm) : packed;
  const scalars = new Map<string, InputValue>();
  const scalar = (name: string): Value => {
    const made = scalars.get(name) ?? input(name, "float32", []);
    scalars.set(name, made);
    return made;
  };
  const outputs: Record<string, Value> = { grad_norm: norm };
  const writes: Record<string, string> = {};
  const put = (buffer: string, value: Value): void => {
    outputs[`next ${buffer}`] = value;
    writes[`next ${buffer}`] = buffer;
  };
  const state: ParameterValue[] = [];
  packs.forEach(({ members, gradient, decays, rate }, i) => {
    const [first] = members as [ParameterValue]; // a pack has members
    const shape = gradient.shape.map(Number);
    const own = new Map(adamw.state.map((name) => [name, parameter(stateName(first.name, name), "float32", shape)]));
    state.push(...own.values());
    const next = adamw.update(
      {
        parameter: flatten(members),
        gradient: clipped[i] as Value, // one gradient a pack
        state: (name) => own.get(name) as Value, // the names that `adamw.state` lists
        scalar,
        decays,
        rate,
      },
      options.optimizer,
    );
    unflatten(next.parameter, members).forEach((value, j) => {
      put((members[j] as Value & { name: string }).name, value); // one value a member
    });
    for (const [name, tensor] of Object.entries(next.state)) put(stateName(first.name, name), tensor);
  });
  return { outputs, writes, state };
}

/** What decides how a parameter is updated, besides the run. */
function ruleOf({ decays, rate }: Trainable): Pick<Trainable, "decays" | "rate"> {
  return { decays, rate };
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

function unflatten(packed: Value, members: readonly ParameterValue[]): readonly Value[] {
  if (members.length === 1) return [packed];
  const sizes = members.map(({ shape }) => sizeOf(shape.map(Number)));
  return split(packed, sizes, 0).map((part, i) => reshape(part, (members[i] as ParameterValue).shape)); // a part a member
}
