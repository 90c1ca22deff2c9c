import { describe, expect, it } from "vitest";
import { createRng } from "../linalg/index.ts";
import { resolveSampling, type SampleOptions, sampleToken } from "./sample.ts";

const logits = Float32Array.from([0.6, 0.25, 0.1, 0.05], Math.log);

/** How often each token is drawn in 20,000 draws. */
function shares(options: Partial<SampleOptions>, seen: readonly number[] = []): number[] {
  const rng = createRng(3, "test");
  const counts = [0, 0, 0, 0];
  const resolved = resolveSampling({ temperature: 1, ...options });
  for (let i = 0; i < 20_000; i++) {
    const token = sampleToken(logits, seen, resolved, rng);
    counts[token] = (counts[token] ?? 0) + 1;
  }
  return counts.map((count) => count / 20_000);
}

describe("the next token", () => {
  it.each<[string, Partial<SampleOptions>, number[]]>([
    ["follows the model's distribution at temperature 1", {}, [0.6, 0.25, 0.1, 0.05]],
    ["is sharper at temperature 0.5", { temperature: 0.5 }, [0.36, 0.0625, 0.01, 0.0025].map((p) => p / 0.435)],
    ["is one of the top k", { topK: 2 }, [0.6 / 0.85, 0.25 / 0.85, 0, 0]],
    ["is one of those that reach top p", { topP: 0.8 }, [0.6 / 0.85, 0.25 / 0.85, 0, 0]],
    ["is the likeliest when top p is tiny", { topP: 0.01 }, [1, 0, 0, 0]],
    ["is likely enough by min p", { minP: 0.15 }, [0.6 / 0.95, 0.25 / 0.95, 0.1 / 0.95, 0]],
    ["is the likeliest when greedy", { temperature: 0 }, [1, 0, 0, 0]],
  ])("%s", (_what, options, expected) => {
    shares(options).forEach((share, token) => {
      expect(share).toBeCloseTo(expected[token] ?? 0, 1.8);
      if (expected[token] === 0) expect(share).toBe(0);
    });
  });

  it("is less likely when it was seen, whatever the sign of its score", () => {
    const options = resolveSampling({ repetitionPenalty: 2 });
    const rng = createRng(0, "test");
    expect(sampleToken(Float32Array.of(2, 1.5, -1), [0], options, rng)).toBe(1);
    expect(sampleToken(Float32Array.of(-1, -1.5, -3), [0], options, rng)).toBe(1);
  });

  it("is the same for the same seed, and ties go to the lower id", () => {
    const options = resolveSampling({ temperature: 0.9 });
    const draw = (): number[] => {
      const rng = createRng(7, "test");
      return Array.from({ length: 20 }, () => sampleToken(logits, [], options, rng));
    };
    expect(draw()).toEqual(draw());
    expect(sampleToken(Float32Array.of(1, 3, 3), [], resolveSampling({}), createRng(0, "t"))).toBe(1);
  });

  it("is refused when scores or options are not numbers that make sense", () => {
    const nan = Float32Array.of(Number.NaN, Number.NaN);
    const choose = (): number => sampleToken(nan, [], resolveSampling({}), createRng(0, "t"));
    expect(choose).toThrow(/largest score/);
    expect(() => resolveSampling({ temperature: -1, topP: 0 })).toThrow(/temperature is -1(.|\n)*topP is 0/);
  });
});
