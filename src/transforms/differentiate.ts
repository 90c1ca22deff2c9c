import { assert, TuneError } from "../errors.ts";
import { constantOf, isFloat, type Node, tensor, topologicalOrder, type Value, withScope } from "../graph/index.ts";
import { add, type GradientContext, opOf, reduceLike, required, zerosLike } from "../ops/index.ts";

/**
 * Reverse-mode differentiation: the gradients of a scalar `loss` with respect to `wrt`, each of its value's shape.
 * Rules are plain formulas; here, in one place, broadcasting is undone, contributions add up, and paths that reach
 * none of `wrt` are skipped. Backward nodes carry the module of the forward node they come from, with `/grad`.
 * A value the loss does not depend on gets zeros.
 * @throws {TuneError} `unsupported-gradient` naming the module whose operator has no rule.
 */
export function differentiate(loss: Value, wrt: readonly Value[]): readonly Value[] {
  assert(loss.shape.length === 0 && isFloat(loss.dtype), "only a floating-point scalar can be differentiated");
  return pullBack([[loss, constantOf(tensor(loss.dtype, [], 1))]], wrt);
}

/**
 * The same from any values, with the gradient of each given: what that comes to with respect to `wrt`.
 * @throws {TuneError} as {@link differentiate}.
 */
export function pullBack(
  given: readonly (readonly [value: Value, gradient: Value])[],
  wrt: readonly Value[],
): readonly Value[] {
  const order = topologicalOrder(given.map(([value]) => value));
  const needed = dependents(order, new Set(wrt));
  const contributions = new Map<Value, Value[]>();
  for (const [value, gradient] of given) contributions.set(value, [...(contributions.get(value) ?? []), gradient]);

  // Contributions are summed when they are first read: by then every consumer has been visited.
  const gradientOf = (value: Value): Value | undefined => {
    const parts = contributions.get(value);
    if (parts === undefined) return undefined;
    const total = parts.reduce((sum, part) => add(sum, part));
    contributions.set(value, [total]);
    return total;
  };

  for (const node of order.toReversed()) {
    const needs = node.inputs.map((value) => value !== undefined && isFloat(value.dtype) && needed(value));
    if (!needs.some(Boolean)) continue;
    withScope(`${node.scope}/grad`, () => {
      const dys = node.outputs.map(gradientOf);
      if (dys.every((dy) => dy === undefined)) return;
      const gradients = gradientsOf(node, dys, needs);
      node.inputs.forEach((value, i) => {
        const gradient = gradients[i];
        if (value === undefined || gradient === undefined || !needs[i]) return;
        const parts = contributions.get(value);
        const part = reduceLike(gradient, value);
        if (parts) parts.push(part);
        else contributions.set(value, [part]);
      });
    });
  }
  return wrt.map((value) => gradientOf(value) ?? zerosLike(value));
}

function gradientsOf(
  node: Node,
  dys: readonly (Value | undefined)[],
  needs: readonly boolean[],
): readonly (Value | undefined)[] {
  const rule = opOf(node).grad;
  if (rule === "nondifferentiable") return [];
  if (rule === "unsupported") {
    throw new TuneError("unsupported-gradient", `The gradient of ${node.op} is not supported.`, {
      at: node.scope === "" ? "the graph" : node.scope,
      fix: "train parameters that come after this layer, or use a model without it",
    });
  }
  const context: GradientContext = {
    inputs: node.inputs,
    outputs: node.outputs,
    attributes: node.attributes,
    dy: dys[0] ?? zerosLike(required(node.outputs, 0, node.op)),
    dys,
    needs,
    x: (index) => required(node.inputs, index, node.op),
  };
  return rule(context);
}

/** Whether a value depends on one of `sources`. */
function dependents(order: readonly Node[], sources: ReadonlySet<Value>): (value: Value) => boolean {
  const reached = new Set<Node>();
  const needed = (value: Value): boolean => sources.has(value) || (value.kind === "result" && reached.has(value.node));
  for (const node of order) if (node.inputs.some((value) => value !== undefined && needed(value))) reached.add(node);
  return needed;
}
