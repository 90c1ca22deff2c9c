import { expect, it } from "vitest";
import { graph, parameter, type Value, weight } from "../graph/index.ts";
import {
  add,
  dequantise,
  div,
  expandLike,
  gather,
  gemm,
  mul,
  type Reference,
  reference,
  scatterElements,
  sub,
  sumAll,
  unsqueeze,
} from "../ops/index.ts";
import { differentiate, evaluate } from "../transforms/index.ts";
import { putColumns } from "./live-weights.ts";

// One layer of 4 inputs and 3 outputs on a base in codes, columns 1 and 3 whole: L = ½·mean((y − T)²). The numbers are
// those that float64 arithmetic gave for the trick of QPaCA: codes of zero there, and a product of the columns beside.
const x = parameter("x", "float32", [2, 4]);
const bias = parameter("bias", "float32", [3]);
const target = parameter("T", "float32", [2, 3]);
const columns = parameter("columns", "int64", [2]);
const whole = parameter("P", "float32", [3, 2]);
const scales = parameter("scales", "float32", [3, 1]);
const given: readonly (readonly [string, Reference])[] = [
  ["x", reference([2, 4], [1, 0, -1, 2, 2, 1, 0, -1])],
  ["bias", reference([3], [0.5, -0.5, 0])],
  ["T", reference([2, 3], [0, 1, 2, 1, -1, 0])],
  ["columns", reference([2], [1, 3], "int64")],
  ["scales", reference([3, 1], 0.5)],
  ["codes", reference([3, 4], [2, 5, 6, 7, 0, -2, 3, 4, 4, 1, -4, 2], "int8")],
  ["codes of zero", reference([3, 4], [2, 0, 6, 0, 0, 0, 3, 0, 4, 0, -4, 0], "int8")],
];
const decode = (name: string): Value => dequantise(parameter(name, "int8", [3, 4]), scales, 4);
const [decoded, zeroed] = [decode("codes"), decode("codes of zero")];

function run(outputs: Readonly<Record<string, Value>>, P: readonly number[]): Record<string, readonly number[]> {
  const found = evaluate(graph({ outputs }), new Map([...given, ["P", reference([3, 2], P)]]));
  return Object.fromEntries([...found].map(([name, { data }]) => [name, [...data]]));
}

function lossOf(y: Value): Value {
  const error = sub(y, target);
  return div(sumAll(mul(error, error)), 12);
}

/** y, 6·dP and 6·dx as a training step has them: the columns are put into the decoded copy. */
function put(): Readonly<Record<string, Value>> {
  const leaf = weight("W", { dtype: "float32", shape: [3, 4], sizeBytes: 48, read: () => Promise.reject(new Error()) });
  const now = putColumns(decoded, {
    ...{ leaf, pretrained: leaf, module: "m", layout: "out,in", columns, original: whole },
    ...{ values: () => whole, trained: whole, config: {} },
  });
  const y = gemm(x, now, { transB: true, c: bias });
  const [dP, dx] = differentiate(lossOf(y), [whole, x]) as [Value, Value];
  return { y, dP: mul(dP, 6), dx: mul(dx, 6) };
}

/** The same by the trick, whose backward pass through the codes is zero at the columns and is overwritten there. */
function trick(): Readonly<Record<string, Value>> {
  const beside = gemm(gather(x, columns, 1), whole, { transB: true });
  const y = add(gemm(x, zeroed, { transB: true, c: bias }), beside);
  const [dP] = differentiate(lossOf(y), [whole]) as [Value];
  const dy = sub(y, target); // six times the gradient
  const own = gemm(dy, whole);
  const dx = scatterElements(gemm(dy, zeroed), expandLike(unsqueeze(columns, [0]), own), own, 1);
  return { y, dP: mul(dP, 6), dx };
}

it("columns put into a decoded copy compute what codes of zero and a product beside do", () => {
  const original = [2, 4, -1, 2, 0, 1];
  const expected = {
    y: [6.5, 2, 6, 0.5, -3.5, 3],
    dP: [-0.5, 13.5, -2.5, 4.5, 3, 5],
    dx: [14.5, 12, 13, 32, 5.5, 1.5, -11.25, -4],
  };
  for (const made of [put(), trick()]) {
    const found = run(made, original);
    for (const [name, values] of Object.entries(expected)) {
      expect(found[name], name).toEqual(values.map((value) => expect.closeTo(value, 9)));
    }
  }
});

it("columns as the codes have them compute what the codes do", () => {
  const rounded = [2.5, 3.5, -1, 2, 0.5, 1];
  const plain = gemm(x, decoded, { transB: true, c: bias });
  const y = [5.5, 2, 6, 1.5, -3.5, 3.5];
  for (const made of [put(), trick()]) expect(run({ ...made, plain }, rounded)).toMatchObject({ y, plain: y });
});
