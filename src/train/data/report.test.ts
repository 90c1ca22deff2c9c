import { expect, it } from "vitest";
import { reportData } from "./report.ts";

const example = (length: number, line: number, fill = line) => ({
  inputIds: new Int32Array(length).fill(fill),
  trained: new Uint8Array(length).fill(1, Math.ceil(length / 2)),
  line,
});

it("counts, measures and finds rows that say the same", () => {
  const lengths = Array.from({ length: 100 }, (_, i) => i + 1);
  const report = reportData([...lengths.map((length) => example(length, length)), example(7, 200, 7)]);
  expect(report).toMatchObject({
    examples: 101,
    tokens: 5057,
    trainedTokens: lengths.reduce((sum, n) => sum + Math.floor(n / 2), 0) + 3,
    lengths: { shortest: 1, median: 50, p95: 95, longest: 100 },
    duplicates: [200],
  });
  expect(report.histogram.map(({ upTo }) => upTo)).toEqual(Array.from({ length: 20 }, (_, i) => 5 * (i + 1)));
  expect(report.histogram.reduce((sum, { count }) => sum + count, 0)).toBe(101);
  expect(report.histogram[1]).toEqual({ upTo: 10, count: 6 });
});

it("has bars of round widths", () => {
  expect(reportData([example(3, 1)]).histogram).toEqual([
    { upTo: 1, count: 0 },
    { upTo: 2, count: 0 },
    { upTo: 3, count: 1 },
  ]);
  expect(reportData([example(2048, 1)]).histogram.at(-1)).toEqual({ upTo: 2200, count: 1 });
});
