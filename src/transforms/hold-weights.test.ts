import { expect, it } from "vitest";
import { constant, graph, input, type LazyTensor, topologicalOrder, type Value, weight } from "../graph/index.ts";
import { add, gather, gemm, linear, reference, toReference } from "../ops/index.ts";
import { evaluate } from "./evaluate.ts";
import { holdWeights } from "./hold-weights.ts";

const [rows, columns] = [7, 3];
const values = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i));

function matrix(name: string, first: number, last: number): Value {
  const shape = [last - first, columns];
  const data = values.slice(first * columns, last * columns);
  const read: LazyTensor["read"] = async () => ({ dtype: "float32", shape, data });
  return weight(name, { dtype: "float32", shape, sizeBytes: data.byteLength, read });
}

it("multiplies by a large weight a piece at a time: its outputs side by side, its inputs added up", () => {
  const table = matrix("table", 0, rows);
  const [x, y] = [input("x", "float32", [2, columns]), input("y", "float32", [2, rows])];
  const biased = linear(x, table, constant(Array<number>(rows).fill(1)));
  const outputs = [linear(x, table), gemm(y, table), biased, gather(table, constant([6, 0], "int64"))];
  const starts = [0, 3, 6];
  const pieces = starts.map((start) => {
    const end = Math.min(rows, start + 3);
    const piece = matrix(`piece${start}`, start, end);
    return { rows: end - start, whole: () => add(piece, constant(0)) };
  });
  const whole = (): Value => add(table, constant(0)); // decoded all at once, for what is no product of rows alone
  const { values: held, decoded } = holdWeights(outputs, () => ({
    whole,
    pieces,
    rows: (indices) => gather(whole(), indices),
  }));

  // Twice three pieces, and the one that is added to a bias decoded whole.
  expect(decoded).toHaveLength(7);
  expect(topologicalOrder(held.slice(0, 2)).filter(({ op }) => op === "Gemm")).toHaveLength(6);

  const feeds = new Map([
    ["x", reference([2, columns], [1, 2, 3, -1, 0.5, 2])],
    [
      "y",
      reference(
        [2, rows],
        Array.from({ length: 2 * rows }, (_, i) => Math.cos(i)),
      ),
    ],
    ["table", toReference({ dtype: "float32", shape: [rows, columns], data: values })],
    ...starts.map((start): [string, ReturnType<typeof reference>] => [
      `piece${start}`,
      reference([Math.min(3, rows - start), columns], [...values.slice(start * columns, (start + 3) * columns)]),
    ]),
  ]);
  const results = (of: readonly Value[]): unknown =>
    [...evaluate(graph({ outputs: new Map(of.map((value, i) => [String(i), value])) }), feeds)].map(([, { data }]) =>
      Array.from(data, (value) => Number(value).toFixed(12)),
    );
  expect(results(held)).toEqual(results(outputs));
});
