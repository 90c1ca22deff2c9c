import { TuneError } from "../errors.ts";
import type { Node } from "../graph/index.ts";
import * as attention from "./attention.ts";
import * as composite from "./composite.ts";
import * as elementwise from "./elementwise.ts";
import * as indexing from "./indexing.ts";
import * as matmul from "./matmul.ts";
import * as normalise from "./normalise.ts";
import type { Op } from "./op.ts";
import * as quantise from "./quantise.ts";
import * as reduce from "./reduce.ts";
import * as shape from "./shape.ts";

/** A record has these; the builder functions exported beside them do not. */
function isOp(exported: unknown): exported is Op {
  return typeof exported === "object" && exported !== null && "infer" in exported && "since" in exported;
}

const families = [attention, composite, elementwise, shape, reduce, matmul, indexing, normalise, quantise];

/** Every operator by name. A family is wired by one line above; an operator needs none. */
export const ops: ReadonlyMap<string, Op> = new Map(
  families.flatMap((family) =>
    Object.values(family)
      .filter(isOp)
      .map((op) => [keyOf(op.domain ?? "", op.name), op]),
  ),
);

function keyOf(domain: string, name: string): string {
  return domain === "" || domain === "ai.onnx" ? name : `${domain}.${name}`;
}

/** The record of an operator, if Scion knows it. */
export function findOp(domain: string, name: string): Op | undefined {
  return ops.get(keyOf(domain, name));
}

/** The operator set that a graph of these nodes needs, at least `least`. */
export function operatorSet(nodes: readonly Node[], least: number): number {
  return Math.max(least, ...nodes.map(({ domain, op }) => (domain === "" ? (findOp(domain, op)?.since ?? 0) : 0)));
}

/**
 * The record of a node's operator.
 * @throws {TuneError} `unsupported-op` naming the node's module.
 */
export function opOf(node: Node): Op {
  const op = findOp(node.domain, node.op);
  if (op) return op;
  throw new TuneError("unsupported-op", `The operator ${keyOf(node.domain, node.op)} is not supported.`, {
    at: node.scope === "" ? "the graph" : node.scope,
    fix: `use a model made of: ${[...ops.keys()].sort().join(", ")}`,
  });
}
