import { sizeOf, type Value } from "../graph/index.ts";
import type { Trainable } from "../methods/index.ts";
import { concat, maxSplitParts, reshape, split, transpose } from "../ops/index.ts";

/** Parameters larger than this are updated by themselves: a copy would cost more than the operators it saves. */
const largestPacked = 32768;
/** Packs grow to about this many elements, which stay in a processor's cache between one operator and the next. */
const packSize = 65536;

/** What decides how a parameter is updated, besides the run. */
export function ruleOf({ decays, rate, inPlace }: Trainable): Pick<Trainable, "decays" | "rate" | "inPlace"> {
  return { decays, rate, inPlace };
}

/** Indices of the parameters that are updated together, in their order. */
export function packsOf(trainables: readonly Trainable[]): readonly (readonly number[])[] {
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

/** The shape of a pack: a vector of all its members, or the shape of its only one. */
export function packShape(members: readonly Trainable[]): readonly number[] {
  const shapes = members.map(({ value }) => value.shape.map(Number));
  return shapes.length === 1 ? (shapes[0] as number[]) : [shapes.reduce((sum, shape) => sum + sizeOf(shape), 0)];
}

/**
 * End to end as one vector; a single value stays as it is. Matrices that were turned one by one are turned together: end
 * to end they are the rows of one.
 */
export function flatten(values: readonly Value[]): Value {
  const [first] = values as [Value]; // never empty
  if (values.length === 1) return first;
  const wide = values.flatMap((value) => turnedFrom(value) ?? []);
  if (wide.length === values.length && new Set(wide.map(({ shape }) => shape[0])).size === 1) {
    const high = transpose(concat(wide, 1), [1, 0]);
    return reshape(high, [sizeOf(high.shape.map(Number))]);
  }
  return concat(
    values.map((value) => reshape(value, [sizeOf(value.shape.map(Number))])),
    0,
  );
}

/** What a matrix was turned from, if it was. */
function turnedFrom(value: Value): Value | undefined {
  const turns = value.kind === "result" && value.node.op === "Transpose" && value.shape.length === 2;
  return turns ? value.node.inputs[0] : undefined;
}

/** Values shaped as others are, from the vector that they are end to end. */
export function unflatten(packed: Value, like: readonly Value[]): readonly Value[] {
  if (like.length === 1) return [packed];
  const shapes = like.map(({ shape }) => shape.map(Number));
  return split(packed, shapes.map(sizeOf), 0).map((part, i) => reshape(part, shapes[i] as number[])); // a part a member
}
