import { describe, expect, it } from "vitest";
import type { TokenizedExample } from "./data/index.ts";
import { accuracy, f1, matthews, meanSquaredError, pearson, spanF1, spansOf, spearman } from "./scores.ts";
import { judgeSeveral } from "./tasks/multi-label.ts";
import { judgeScores } from "./tasks/regress.ts";
import type { Judgement } from "./tasks/task.ts";

describe("scores", () => {
  // Worked by hand from the confusion matrix: 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
  const [given, expected] = [
    [1, 1, 1, 0, 0, 0],
    [1, 1, 0, 1, 0, 0],
  ];
  it("of labels", () => {
    expect(accuracy(given, expected)).toBeCloseTo(4 / 6, 12);
    expect(f1(given, expected, 1)).toBeCloseTo(4 / 6, 12);
    expect(matthews(given, expected)).toBeCloseTo((2 * 2 - 1 * 1) / Math.sqrt(3 * 3 * 3 * 3), 12);
    expect(matthews([0, 1, 2, 2], [0, 1, 2, 1])).toBeCloseTo((3 * 4 - 5) / Math.sqrt((16 - 6) * (16 - 6)), 12);
    expect(matthews([1, 1], [0, 1])).toBe(0);
    expect(f1([0], [0], 1)).toBe(0);
  });

  it("of numbers: ties share their mean rank", () => {
    expect(pearson([1, 2, 3], [2, 4, 6])).toBeCloseTo(1, 12);
    expect(pearson([1, 2, 4], [3, 1, 2])).toBeCloseTo(-0.327326835, 8); // −0.5·√(3/7)
    expect(spearman([1, 2, 3, 4], [1, 8, 27, 64])).toBeCloseTo(1, 12);
    // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 over √(4.5·5).
    expect(spearman([1, 2, 2, 3], [1, 2, 3, 4])).toBeCloseTo(4.5 / Math.sqrt(4.5 * 5), 12);
    expect(pearson([1, 1], [1, 2])).toBe(0);
    expect(meanSquaredError([1, 3], [2, 1])).toBe(2.5);
  });

  it("of names in tags", () => {
    expect(spansOf(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"])).toEqual([
      { kind: "PER", start: 0, end: 2 },
      { kind: "LOC", start: 3, end: 4 },
      { kind: "LOC", start: 4, end: 5 },
    ]);
    const both = { given: spansOf(["B-PER", "O", "B-LOC"]), expected: spansOf(["B-PER", "I-PER", "B-LOC"]) };
    expect(spanF1([both])).toBeCloseTo(0.5, 12); // one of two found, one of two true
  });
});

function judged(said: readonly number[], answers: readonly number[]): Judgement {
  const example: TokenizedExample = { inputIds: new Int32Array(1), trained: new Uint8Array(1), answers, line: 1 };
  return { said: Float32Array.from(said), example };
}

describe("what is said of several outputs", () => {
  it("labels: given from a probability of 0.5, which is a logit of 0", () => {
    const found = judgeSeveral(
      [judged([1, -1, 0], [1, 0, 0]), judged([-2, 3, -1], [0, 1, 0]), judged([1, 1, -1e-3], [0.4, 0.5, 0])],
      ["a", "b", "c"],
    );
    // Right ones: a in the first row, b in the second and third; wrong ones: c in the first, a in the third.
    expect(found["exactMatch"]).toBeCloseTo(1 / 3, 12);
    expect(found["microF1"]).toBeCloseTo((2 * 3) / (2 * 3 + 2), 12);
    expect(found["macroF1"]).toBeCloseTo((2 / 3 + 1 + 0) / 3, 12);
    const missed = judgeSeveral([judged([-1, -1], [1, 0])], ["a", "b"]);
    expect(missed).toEqual({ exactMatch: 0, microF1: 0, macroF1: 0 });
    expect(judgeSeveral([judged([-1, -1], [0, 0])], ["a", "b"])).toEqual({ exactMatch: 1, microF1: 0, macroF1: 0 });
  });

  it("scores: each by itself, and their means; one has no name", () => {
    const rows = [judged([1, 3], [2, 1]), judged([2, 2], [4, 2]), judged([3, 1], [6, 4])];
    const found = judgeScores(rows, ["fluent", "right"]);
    expect(found["pearson_fluent"]).toBeCloseTo(1, 6);
    expect(found["spearman_right"]).toBeCloseTo(-1, 6);
    expect(found["spearman"]).toBeCloseTo(0, 6);
    expect(found["mse_fluent"]).toBeCloseTo((1 + 4 + 9) / 3, 6);
    expect(found["mse_right"]).toBeCloseTo((4 + 0 + 9) / 3, 6);
    expect(found["mse"]).toBeCloseTo((14 + 13) / 6, 6);
    expect(Object.keys(judgeScores([judged([1], [2])], ["score"]))).toEqual(["pearson", "spearman", "mse"]);
  });
});
