import { describe, expect, test } from "vitest";
import { TuneError } from "../../errors.ts";
import { makeBatch } from "./batches.ts";
import { epochOrder, epochSize, planBatches } from "./order.ts";
import { parseJsonLines } from "./read.ts";
import { splitDataset } from "./split.ts";
import type { TokenizedExample } from "./tokenize.ts";

const example = (inputIds: number[], trained: number[], line = 1): TokenizedExample => ({
  inputIds: Int32Array.from(inputIds),
  trained: Uint8Array.from(trained),
  line,
});
const numbers = (data: BigInt64Array): number[] => Array.from(data, Number);

describe("makeBatch", () => {
  const filling = Array.from({ length: 12 }, () => 0); // targets come in multiples of 16
  const examples = [example([5, 6, 7], [0, 0, 1]), example([8, 9, 10, 11, 12], [0, 1, 1, 0, 1])];

  test("pads on the right, to what attention is cut into, and points at the positions before the labels", () => {
    const { feeds, tokens, targets } = makeBatch(examples, { padId: 0 });
    expect(feeds.input_ids.shape).toEqual([2, 8]);
    expect(numbers(feeds.input_ids.data)).toEqual([5, 6, 7, 0, 0, 0, 0, 0, 8, 9, 10, 11, 12, 0, 0, 0]);
    expect(numbers(feeds.position_ids.data)).toEqual([0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0]);
    expect(numbers(feeds.target_positions.data)).toEqual([1, 8, 9, 11, ...filling]);
    expect(numbers(feeds.labels.data)).toEqual([7, 9, 10, 12, ...filling]);
    expect([...feeds.label_weights.data]).toEqual([1, 1, 1, 1, ...filling]);
    expect([tokens, targets]).toEqual([8, 4]);
  });

  test("packs examples into a row, each counted from 0 and labelled within itself", () => {
    const { feeds, tokens, targets } = makeBatch(examples, { padId: 0, hiddenSize: 64 });
    expect(feeds.input_ids.shape).toEqual([1, 8]);
    expect(numbers(feeds.input_ids.data)).toEqual([8, 9, 10, 11, 12, 5, 6, 7]);
    expect(numbers(feeds.position_ids.data)).toEqual([0, 1, 2, 3, 4, 0, 1, 2]);
    expect(numbers(feeds.target_positions.data)).toEqual([0, 1, 3, 6, ...filling]);
    expect(numbers(feeds.labels.data)).toEqual([9, 10, 12, 7, ...filling]);
    expect([tokens, targets]).toEqual([8, 4]);
  });
});

describe("order", () => {
  test("is a permutation that the seed and the epoch alone decide", () => {
    const order = epochOrder([{ count: 50, weight: 1 }], { seed: 3, epoch: 2 });
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(epochOrder([{ count: 50, weight: 1 }], { seed: 3, epoch: 2 })).toEqual(order);
    expect(epochOrder([{ count: 50, weight: 1 }], { seed: 3, epoch: 3 })).not.toEqual(order);
    expect(epochOrder([{ count: 50, weight: 1 }], { seed: 4, epoch: 2 })).not.toEqual(order);
    expect([...epochOrder([{ count: 8, weight: 1 }], { seed: 0, epoch: 0 })]).toEqual([7, 5, 2, 4, 3, 1, 0, 6]); // runs resumed later rely on it
  });

  test("a schedule entered anywhere goes on as the one that ran from the start", () => {
    const options = { batchSize: 4, seed: 11 };
    const whole = planBatches([{ count: 10, weight: 1 }], options);
    const plans = Array.from({ length: 9 }, (_, index) => whole.at(index));
    expect(whole.batchesPerEpoch).toBe(3);
    expect(plans.map(({ epoch, indices }) => [epoch, indices.length])).toEqual(
      [0, 1, 2].flatMap((epoch) => [4, 4, 2].map((size) => [epoch, size])),
    );
    for (const index of [8, 0, 5, 4])
      expect(planBatches([{ count: 10, weight: 1 }], options).at(index)).toEqual(plans[index]);
    expect(whole.at(1)).toEqual(plans[1]);
    expect(new Set(plans.slice(3, 6).flatMap(({ indices }) => indices)).size).toBe(10);
  });
});

describe("mixtures", () => {
  const mixture = [
    { count: 4, weight: 2 },
    { count: 10, weight: 0.3 },
    { count: 3, weight: 1 },
  ];
  const countsOf = (epochs: number): number[] => {
    const counts = Array.from({ length: 17 }, () => 0);
    for (let epoch = 0; epoch < epochs; epoch++)
      for (const index of epochOrder(mixture, { seed: 2, epoch })) counts[index] = (counts[index] ?? 0) + 1;
    return counts;
  };

  test("each example comes as often as its weight says", () => {
    expect(epochSize(mixture)).toBe(14);
    const once = countsOf(1);
    expect(once.slice(0, 4)).toEqual([2, 2, 2, 2]);
    expect(once.slice(4, 14).filter((count) => count === 1)).toHaveLength(3);
    expect(once.slice(14)).toEqual([1, 1, 1]);
  });

  test("a part of a file in an epoch is another in the next, and in the end all of it came as often", () => {
    expect(countsOf(10).slice(4, 14)).toEqual(Array.from({ length: 10 }, () => 3));
    const [first, second] = [0, 1].map((epoch) =>
      epochOrder(mixture, { seed: 2, epoch }).filter((i) => i > 3 && i < 14),
    );
    expect(first?.some((index) => second?.includes(index))).toBe(false);
  });
});

describe("splitDataset", () => {
  const contents = Array.from({ length: 100 }, (_, i) => `text ${i % 60}`); // 40 texts twice, 20 once
  const dataset = parseJsonLines(contents.map((text, id) => JSON.stringify({ id, text })).join("\n"));
  const texts = (rows: typeof dataset.rows): unknown[] => rows.map(({ value }) => value["text"]);

  test("keeps equal rows together, the file's order, and the asked number", () => {
    const { train, validation } = splitDataset(dataset, { validation: 0.2, seed: 5 });
    expect([train.rows.length, validation.rows.length]).toEqual([80, 20]);
    const trained = new Set(texts(train.rows));
    expect(texts(validation.rows).filter((text) => trained.has(text))).toEqual([]);
    const lines = validation.rows.map(({ line }) => line);
    expect(lines).toEqual([...lines].sort((a, b) => a - b));
  });

  test("is decided by the seed", () => {
    const held = (seed: number, validation: number): unknown[] =>
      texts(splitDataset(dataset, { validation, seed }).validation.rows);
    expect(held(5, 7)).toEqual(held(5, 7));
    expect(held(5, 7)).not.toEqual(held(6, 7));
    expect(held(5, 7)).toHaveLength(7);
    expect(held(5, 0)).toEqual([]);
    expect(held(5, 0.001)).toHaveLength(1);
  });

  test("refuses shares that leave a side empty or make no sense", () => {
    const code = (rows: string[], validation: number): string => {
      try {
        splitDataset(parseJsonLines(rows.map((text) => JSON.stringify({ text })).join("\n")), { validation, seed: 0 });
      } catch (error) {
        if (error instanceof TuneError) return error.code;
      }
      return "";
    };
    expect(code(["a", "a", "a"], 1)).toBe("split-impossible");
    expect(code(["a", "b"], 2)).toBe("split-impossible");
    expect(code(["a", "b"], 1)).toBe("");
    expect(code(["a", "b"], -1)).toBe("bad-option");
    expect(code(["a", "b"], 1.5)).toBe("bad-option");
    expect(code(["a", "b"], Number.NaN)).toBe("bad-option");
  });
});
