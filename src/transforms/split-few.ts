import { numberAttribute, type Value } from "../graph/index.ts";
import { equalSplit, sizesOf, split } from "../ops/index.ts";
import { rewrite } from "./rewrite.ts";

/** Cut what is split into more than `most` parts in steps: into groups of neighbours first, and these into their own. */
export function splitFew(outputs: readonly Value[], most: number): readonly Value[] {
  if (most === Number.POSITIVE_INFINITY) return outputs;
  return rewrite(outputs, {
    node: (node, [x, given]) => {
      const count = node.outputs.length;
      if (node.op !== "Split" || x === undefined || count <= most) return undefined;
      const axis = numberAttribute(node.attributes, "axis", 0);
      const sizes = given ? sizesOf(given) : node.outputs.map(({ shape }) => shape.at(axis) ?? 1);
      if (sizes?.every((size) => typeof size === "number")) return inGroups(x, sizes, axis, most);
      return given ? undefined : inEqualGroups(x, count, axis, most);
    },
  });
}

function inGroups(x: Value, sizes: readonly number[], axis: number, most: number): readonly Value[] {
  if (sizes.length === 1) return [x];
  if (sizes.length <= most) return split(x, sizes, axis);
  const each = Math.ceil(sizes.length / most);
  const groups = Array.from({ length: Math.ceil(sizes.length / each) }, (_, i) =>
    sizes.slice(i * each, (i + 1) * each),
  );
  const totals = groups.map((group) => group.reduce((sum, size) => sum + size, 0));
  return split(x, totals, axis).flatMap((part, i) => inGroups(part, groups[i] ?? [], axis, most));
}

/** Equal parts of a size that nobody knows yet; as they are where their number has no factor that is small enough. */
function inEqualGroups(x: Value, count: number, axis: number, most: number): readonly Value[] | undefined {
  if (count <= most) return equalSplit(x, count, axis);
  const groups = Array.from({ length: most - 1 }, (_, i) => most - i).find((divisor) => count % divisor === 0);
  if (groups === undefined) return undefined;
  const parts = equalSplit(x, groups, axis).map((part) => inEqualGroups(part, count / groups, axis, most));
  return parts.includes(undefined) ? undefined : parts.flatMap((part) => part ?? []);
}
