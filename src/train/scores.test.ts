import { describe, expect, it } from "vitest";
import { accuracy, f1, matthews, meanSquaredError, pearson, spanF1, spansOf, spearman } from "./scores.ts";

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
