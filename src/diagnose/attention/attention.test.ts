import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomModel, tinyLlama } from "../../../tests/helpers/tiny-model.ts";
import { computedTensor, type LazyTensor } from "../../graph/index.ts";
import { createRng } from "../../linalg/index.ts";
import { outputBound, type PretrainedModel, taylorError } from "../../models/index.ts";
import type { Machine } from "../../plan/cost.ts";
import type { Device } from "../../runtime/device.ts";
import { openNodeDevice } from "../../runtime/node.ts";
import { attentionSeconds } from "./cost.ts";
import { diagnoseHeads, type Eligibility, eligibilityDefaults } from "./diagnose.ts";
import { sampleHead } from "./head.ts";
import { openProbe } from "./probe.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const machine: Machine = { flopsPerSecond: 60e9, bytesPerSecond: 8e9, secondsPerOperator: 2e-5 };
const length = 1024;

/** The tiny Llama with its projections of queries made smaller, or larger. */
async function withQueries(factor: number, json: Record<string, unknown> = tinyLlama): Promise<PretrainedModel> {
  const model = await randomModel({ ...json, max_position_embeddings: 2048 });
  const tensors = [...model.weights].map(([name, { source }]): [string, LazyTensor] => {
    if (!name.includes("q_proj")) return [name, source];
    const scaled = async (): Promise<Float32Array> =>
      Float32Array.from((await source.read()).data as Float32Array, (x) => factor * x);
    return [name, computedTensor(source.shape, scaled)];
  });
  return model.withTensors(new Map(tensors), model.json);
}

function texts(count: number): readonly Int32Array[] {
  const rng = createRng(3, "texts");
  return Array.from({ length: count }, () => Int32Array.from({ length }, () => rng.integer(64)));
}

async function diagnosed(model: PretrainedModel, options: Partial<Eligibility> = {}) {
  const probe = await openProbe(device, model, {});
  try {
    return await diagnoseHeads(probe, texts(1), { ...eligibilityDefaults, machine, ...options });
  } finally {
    await probe.close();
  }
}

describe("the diagnosis of heads", () => {
  it("finds bounds that grow with the queries, and scores within them", async () => {
    const [one, tenth] = [await diagnosed(await withQueries(1)), await diagnosed(await withQueries(0.1))];
    expect(one.heads).toHaveLength(8);
    one.heads.forEach((head, i) => {
      // Later layers read something else.
      if (head.layer === 0) expect(tenth.heads[i]?.range.plain).toBeCloseTo(head.range.plain / 10, 4);
      expect(head.scores.max).toBeGreaterThan(0);
      expect(head.scores.p50).toBeLessThanOrEqual(head.scores.p99);
      // The bound leaves the first token aside, which all meet exactly.
      expect(head.scores.p90).toBeLessThanOrEqual(Math.max(head.range.plain, head.range.centred));
    });
    // Heads that share keys are centred alike, where that makes the largest bound of them smaller.
    const largest = (of: (head: (typeof one.heads)[number]) => number, keys: string): number =>
      Math.max(...one.heads.filter(({ layer, keyHead }) => `${layer} ${keyHead}` === keys).map(of));
    for (const keys of ["0 0", "0 1", "1 0", "1 1"])
      expect(largest(({ bound }) => bound, keys)).toBeLessThanOrEqual(largest(({ range }) => range.plain, keys) + 1e-6);
  });

  it("says that no head of a model with large scores qualifies", async () => {
    const { heads, plan } = await diagnosed(await withQueries(3));
    expect(plan.heads).toEqual([]);
    for (const { verdict } of heads) expect(verdict).toMatchObject({ kind: "exact", why: "its scores are too large" });
  });

  it("certifies heads of small scores, and plans their keys", async () => {
    const { heads, plan } = await diagnosed(await withQueries(0.02));
    for (const { verdict } of heads) expect(verdict).toEqual({ kind: "polynomial", degree: 2, by: "certificate" });
    expect(plan.heads.map(({ layer, head, degree }) => [layer, head, degree])).toEqual([
      [0, 0, 2],
      [0, 1, 2],
      [1, 0, 2],
      [1, 1, 2],
    ]);
  });

  it("goes by samples only where that is allowed", async () => {
    const model = await withQueries(0.15);
    const strict = await diagnosed(model);
    const sampled = await diagnosed(model, { sampledError: 0.05 });
    expect(strict.plan.heads.length).toBeLessThan(sampled.plan.heads.length);
    const by = sampled.heads.flatMap(({ verdict }) => (verdict.kind === "polynomial" ? [verdict.by] : []));
    expect(by).toContain("sample");
  });

  it("leaves heads exact where that is faster", async () => {
    const probe = await openProbe(device, await withQueries(0.02), {});
    const { heads } = await diagnoseHeads(
      probe,
      texts(1).map((ids) => ids.subarray(0, 256)),
      { ...eligibilityDefaults, machine },
    );
    await probe.close();
    for (const { verdict } of heads)
      expect(verdict).toMatchObject({ kind: "exact", why: "degree 2 would do, but is not faster at this length" });
  });

  it("names layers that can only be exact", async () => {
    const gemma = { model_type: "gemma2", attn_logit_softcapping: 50, sliding_window: 16 };
    const json = { ...tinyLlama, ...gemma, query_pre_attn_scalar: 8, tie_word_embeddings: true };
    const { heads } = await diagnosed(await withQueries(0.02, json));
    for (const { verdict } of heads)
      expect(verdict).toMatchObject({ kind: "exact", why: expect.stringMatching(/capped|sees 16 tokens/) });
  });
});

describe("a head's certificate", () => {
  it("is never violated by what is sampled", () => {
    const rng = createRng(11, "heads");
    for (let draw = 0; draw < 200; draw++) {
      const [headDim, count, chunk] = [2 + rng.integer(7), 8 + rng.integer(40), 4 * (1 + rng.integer(3))];
      const some = (rows: number, size: number): Float32Array =>
        Float32Array.from({ length: rows * headDim }, () => size * rng.normal());
      const [queries, keys, values] = [some(count, 0.4 * rng.uniform()), some(count, 1), some(count, 1)];
      const places = Array.from({ length: count }, (_, i) => i);
      const centres = draw % 2 === 0 ? {} : { key: some(1, 0.3), query: some(1, 0.1) };
      const shifted = (x: Float32Array, centre: Float32Array | undefined): number => {
        let most = 0;
        for (let i = 0; i < count; i++) {
          let sum = 0;
          for (let a = 0; a < headDim; a++) sum += ((x[i * headDim + a] ?? 0) - (centre?.[a] ?? 0)) ** 2;
          most = Math.max(most, Math.sqrt(sum));
        }
        return most;
      };
      const bound = shifted(queries, centres.query) * shifted(keys, centres.key);
      const text = { headDim, valueDim: headDim, queries, places, keys, values, centres };
      const { errors } = sampleHead(text, { chunk, errorEvery: 1 });
      const range = (column: number): number => {
        const all = places.map((i) => values[i * headDim + column] ?? 0);
        return Math.max(...all) - Math.min(...all);
      };
      const widest = Math.hypot(...Array.from({ length: headDim }, (_, a) => range(a)));
      for (const degree of [2, 4] as const) {
        const limit = outputBound(taylorError(degree, -bound, bound)) * widest;
        // Errors are relative to an output's length, which is not above that of the longest value.
        const least = Math.min(...errors[degree]);
        expect(least).toBeGreaterThanOrEqual(0);
        if (Number.isFinite(limit)) expect(absolute(text, degree, chunk)).toBeLessThanOrEqual(limit + 1e-6);
      }
    }
  });
});

/** The largest ‖Õ − O‖ over all queries: what is sampled, times the length of the exact output. */
function absolute(text: Parameters<typeof sampleHead>[0], degree: 2 | 4, chunk: number): number {
  const { headDim, queries, keys, values, places } = text;
  const { errors } = sampleHead(text, { chunk, errorEvery: 1 });
  return Math.max(
    ...places.map((place, row) => {
      const mixed = new Float64Array(headDim);
      let sum = 0;
      for (let j = 0; j <= place; j++) {
        let score = 0;
        for (let a = 0; a < headDim; a++) score += (queries[row * headDim + a] ?? 0) * (keys[j * headDim + a] ?? 0);
        sum += Math.exp(score);
        for (let a = 0; a < headDim; a++) mixed[a] = (mixed[a] ?? 0) + Math.exp(score) * (values[j * headDim + a] ?? 0);
      }
      return (errors[degree][row] ?? Number.NaN) * Math.hypot(...mixed.map((x) => x / sum));
    }),
  );
}

describe("the reckoned time", () => {
  it("of exact attention grows with the square of the length, of a polynomial with the length", () => {
    const heads = { headDim: 16, group: 1 };
    const growth = (degree: 2 | undefined): number =>
      Math.log2(attentionSeconds(heads, degree, 32768, machine) / attentionSeconds(heads, degree, 16384, machine));
    expect(growth(undefined)).toBeGreaterThan(1.8);
    expect(growth(2)).toBeLessThan(1.1);
  });
});
