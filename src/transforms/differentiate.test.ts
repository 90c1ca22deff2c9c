import { describe, expect, it } from "vitest";
import {
  type ConstantValue,
  constant,
  graph,
  input,
  isFloat,
  type ParameterValue,
  parameter,
  sizeOf,
  type Value,
} from "../graph/index.ts";
import {
  apply,
  detach,
  graft,
  mul,
  type Op,
  ops,
  type Reference,
  reference,
  required,
  type Sample,
  spread,
  sumAll,
} from "../ops/index.ts";
import { differentiate } from "./differentiate.ts";
import { evaluate } from "./evaluate.ts";
import { fold } from "./fold.ts";

/** The op applied to parameters (constants where the sample says so), with each output weighted into one loss. */
function outputOf(op: Op, sample: Sample): { y: Value; leaves: readonly (Value | undefined)[] } {
  const leaves = sample.inputs.map((given, i) => {
    if (given === undefined) return undefined;
    if (sample.constant?.includes(i)) return constant([...given.data], given.dtype, given.shape) as ConstantValue;
    return parameter(`x${i}`, given.dtype, given.shape) as ParameterValue;
  });
  return { y: apply(op, leaves, sample.attributes), leaves };
}

function lossOf(op: Op, sample: Sample): { loss: Value; leaves: readonly (Value | undefined)[] } {
  const { y, leaves } = outputOf(op, sample);
  const weights = spread(y.shape.map(Number), -1, 1, 0.53);
  return { loss: sumAll(mul(y, constant([...weights.data], y.dtype, weights.shape))), leaves };
}

function feedsOf(sample: Sample): Map<string, Reference> {
  return new Map(sample.inputs.flatMap((given, i) => (given ? [[`x${i}`, given] as const] : [])));
}

/** Samples through which a gradient can flow: real numbers in and out. */
function differentiable(op: Op): { sample: Sample; i: number }[] {
  return op.samples
    .map((sample, i) => ({ sample, i }))
    .filter(({ sample }) => sample.inputs[0]?.dtype !== "int64" && isFloat(outputOf(op, sample).y.dtype));
}

describe.each([...ops.values()].filter(({ grad, samples }) => typeof grad === "function" && samples.length > 0))(
  "gradient of $name",
  (op) => {
    it.each(differentiable(op))("sample $i agrees with central differences", ({ sample }) => {
      const { loss, leaves } = lossOf(op, sample);
      const trained = leaves.filter(
        (leaf): leaf is ParameterValue => leaf?.kind === "parameter" && leaf.dtype === "float32",
      );
      const gradients = differentiate(loss, trained);
      const backward = graph({ outputs: Object.fromEntries(gradients.map((value, i) => [`d${i}`, value])) });
      const forward = graph({ outputs: { loss } });
      const feeds = feedsOf(sample);
      const found = evaluate(backward, feeds);
      trained.forEach((leaf, k) => {
        const x = required(
          [...feeds.entries()].filter(([name]) => name === leaf.name),
          0,
          op.name,
        )[1];
        const gradient = found.get(`d${k}`);
        expect(gradient?.shape).toEqual(leaf.shape);
        for (let i = 0; i < sizeOf(x.shape); i++) {
          const at = x.data[i] ?? 0;
          const step = Math.cbrt(Number.EPSILON) * Math.max(1, Math.abs(at));
          const probe = (value: number): number => {
            const data = Float64Array.from(x.data);
            data[i] = value;
            return (
              evaluate(forward, new Map([...feeds, [leaf.name, { ...x, data }]])).get("loss")?.data[0] ?? Number.NaN
            );
          };
          const slope = (probe(at + step) - probe(at - step)) / (2 * step);
          expect(Math.abs((gradient?.data[i] ?? Number.NaN) - slope), `${leaf.name}[${i}]`).toBeLessThan(
            1e-7 * Math.max(1, Math.abs(slope)),
          );
        }
      });
    });
  },
);

it("sums the contributions of a value used twice, and gives zeros to one not used", () => {
  const x = parameter("x", "float32", [2]);
  const unused = parameter("unused", "float32", [3]);
  const [dx, zero] = differentiate(sumAll(mul(x, x)), [x, unused]);
  const result = evaluate(
    graph({ inputs: [input("n", "int64", [])], outputs: { dx: dx as Value, zero: zero as Value } }),
    new Map([["x", reference([2], [3, -1])]]),
  );
  expect([...(result.get("dx")?.data ?? [])]).toEqual([6, -2]);
  expect([...(result.get("zero")?.data ?? [])]).toEqual([0, 0, 0]);
});

it("grafts a gradient onto a value that has no such term", () => {
  const [x, w] = [input("x", "float32", [2]), input("w", "float32", [2])];
  const y = graft(mul(x, 3), mul(detach(x), w)); // worth 3x, with a slope of x in w
  const [dx, dw] = differentiate(sumAll(y), [x, w]) as [Value, Value];
  const feeds = new Map([
    ["x", reference([2], [2, 5])],
    ["w", reference([2], [7, 7])],
  ]);
  const [kept, px, pw] = fold([y, dx, dw]) as [Value, Value, Value];
  const found = evaluate(graph({ outputs: { y: kept, dx: px, dw: pw } }), feeds);
  expect(["y", "dx", "dw"].map((name) => [...(found.get(name)?.data ?? [])])).toEqual([
    [6, 15],
    [3, 3],
    [2, 5],
  ]);
});
