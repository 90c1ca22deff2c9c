import { describe, expect, it } from "vitest";
import { graph, parameter, type Value } from "../graph/index.ts";
import { mul, type Reference, reference, sumAll } from "../ops/index.ts";
import { differentiate, evaluate } from "../transforms/index.ts";
import { adalora } from "./adalora.ts";
import { budgetAt, planBudget } from "./adalora-budget.ts";
import { chooseMethod } from "./table.ts";

// The graph's own constants are float32, so agreement is to its precision. The numbers are those that PEFT's allocator and float64 arithmetic gave for the same inputs.
const config = chooseMethod("adalora", { initialRank: 2, targetRank: 1, alpha: 8 }).config as never;
const m0 = {
  A: { shape: [2, 2], data: [1, -1, 0.5, 2] },
  B: { shape: [3, 2], data: [1, 0, 0, 1, 2, -1] },
  E: { shape: [2, 1], data: [0.5, -0.2] },
};
const m1 = {
  A: { shape: [2, 3], data: [0.1, 0.2, 0.3, 1, 0, -1] },
  B: { shape: [2, 2], data: [1, 2, 0.5, -0.5] },
  E: { shape: [2, 1], data: [0.1, 0.4] },
};
const modules = { m0, m1 };
type Key = "A" | "B" | "E";
const tensors = Object.entries(modules).flatMap(([module, own]) =>
  (["A", "B", "E"] as const).map((key) => ({ module, key, ...own[key] })),
);
const leaf = new Map(
  tensors.map(({ module, key, shape }) => [`${module}.${key}`, parameter(`${module}.${key}`, "float32", shape)]),
);
const feeds = new Map(tensors.map(({ module, key, shape, data }) => [`${module}.${key}`, reference(shape, data)]));
const sites = (["m0", "m1"] as const).map((module) => ({
  module,
  config,
  parameter: (key: string): Value => leaf.get(`${module}.${key}`) as Value,
}));

const scalars = new Map(
  ["track", "budget", "select", "mask"].map((name) => [`adalora_${name}`, parameter(`adalora_${name}`, "float32", [])]),
);
const scalarOf = (name: string): Value => scalars.get(name) as Value;

function run(outputs: Record<string, Value>, more: ReadonlyMap<string, Reference> = new Map()): Map<string, number[]> {
  const results = evaluate(graph({ outputs }), new Map([...feeds, ...more]));
  return new Map([...results].map(([name, { data }]) => [name, [...data]]));
}

describe("the budget", () => {
  const plan = planBudget(
    100,
    { budgetWarmup: 10, budgetFinal: 20, budgetEvery: 10, initialRank: 12, targetRank: 8 },
    { initial: 48, target: 32 },
  );

  it("falls by a cube, as PEFT's does", () => {
    const at = [0, 10, 11, 12, 15, 19, 20, 30, 40, 45, 50, 60, 70, 79, 80, 81, 99];
    const budgets = at.map((t) => budgetAt(plan, t).budget);
    expect(budgets).toEqual([48, 48, 47, 46, 44, 42, 42, 37, 34, 34, 33, 32, 32, 32, 32, 32, 32]);
    const masks = Array.from({ length: 100 }, (_, t) => budgetAt(plan, t)).filter(({ masks: is }) => is);
    expect(masks).toHaveLength(26); // seven by tens up to 80, then all 19
    expect(Array.from({ length: 100 }, (_, t) => budgetAt(plan, t).tracks).lastIndexOf(true)).toBe(79);
    const long = planBudget(
      85900,
      { budgetWarmup: 8000, budgetFinal: 50000, budgetEvery: 100, initialRank: 4, targetRank: 2 },
      { initial: 288, target: 144 },
    );
    const later = [8100, 10000, 15000, 20000, 30000, 35000].map((t) => budgetAt(long, t).budget);
    expect(later).toEqual([286, 259, 204, 170, 145, 144]);
  });

  it("is reached at the end even where no final phase was asked for", () => {
    const short = planBudget(
      10,
      { budgetWarmup: 0, budgetFinal: 0, budgetEvery: 4, initialRank: 4, targetRank: 2 },
      { initial: 16, target: 8 },
    );
    expect(budgetAt(short, 9)).toEqual({ budget: 8, tracks: true, selects: true, masks: true });
    expect(budgetAt(short, 7).masks).toBe(false);
  });

  it("is refused where nothing would be pruned, or the run is too short", () => {
    const { schedule } = adalora.training ?? {};
    const given = (options: Record<string, number>, steps: number): (() => unknown) => {
      const chosen = chooseMethod("adalora", options).config as never;
      return () => schedule?.({ steps, sites: sites.map((site) => ({ ...site, config: chosen })) }, chosen);
    };
    expect(given({ initialRank: 4, targetRank: 4 }, 100)).toThrow("targetRank is 4, but it must be below initialRank");
    expect(given({ initialRank: 4, targetRank: 2, budgetWarmup: 60, budgetFinal: 40 }, 100)).toThrow(
      "take 60 and 40 updates, but the run has 100",
    );
    expect(given({ initialRank: 4, targetRank: 2, budgetWarmup: 60, budgetFinal: 0 }, 30)).toThrow("the run has 30");
    expect(given({ initialRank: 4, targetRank: 0 }, 100)).not.toThrow();
  });
});

describe("importance", () => {
  const gradients = [
    {
      m0: [
        [0.2, 0.1, -0.4, 0.1],
        [0.1, 0.3, 0.2, -0.2, 0, 0.1],
        [0.6, 0.5],
      ],
      m1: [
        [1, -1, 0.5, 0.2, 0.1, 0.3],
        [0.1, 0.05, -0.2, 0.4],
        [-0.3, 0.2],
      ],
    },
    {
      m0: [
        [0.1, 0.3, 0.2, -0.1],
        [0.2, 0.1, -0.1, 0.4, 0.1, 0],
        [-0.2, 0.1],
      ],
      m1: [
        [0.5, 0.5, -1, 0.1, 0.2, -0.1],
        [0.3, 0.1, 0.1, -0.2],
        [0.8, -0.1],
      ],
    },
  ];
  const one = new Map([["adalora_track", reference([], [1])]]);
  const track = adalora.training?.track;

  /** Scores of every element after both updates, with w held fixed. */
  function scoresOf(updates: number, options = config): ReadonlyMap<string, number[]> {
    let state = new Map<string, number[]>();
    let scores = new Map<string, number[]>();
    for (const step of gradients.slice(0, updates)) {
      scores = new Map();
      const next = new Map<string, number[]>();
      for (const { module, key, shape, data } of tensors) {
        const name = `${module}.${key}`;
        const parts = new Map(
          ["sensitivity", "uncertainty"].map((part) => [part, parameter(`${name}#${part}`, "float32", shape)]),
        );
        const given = step[module as "m0"]["ABE".indexOf(key)] as number[];
        const made = track?.update(
          {
            parameter: leaf.get(name) as Value,
            gradient: parameter(`${name}#gradient`, "float32", shape),
            state: (part) => parts.get(part) as Value,
            scalar: scalarOf,
          },
          options,
        );
        if (!made) throw new Error("AdaLoRA tracks importance");
        const found = run(
          { ...made.state, score: made.score },
          new Map([
            ...one,
            [`${name}#gradient`, reference(shape, given)],
            ...["sensitivity", "uncertainty"].map(
              (part) =>
                [`${name}#${part}`, reference(shape, state.get(`${name}#${part}`) ?? data.map(() => 0))] as const,
            ),
          ]),
        );
        for (const part of ["sensitivity", "uncertainty"]) next.set(`${name}#${part}`, found.get(part) ?? []);
        scores.set(name, found.get("score") ?? []);
      }
      state = next;
    }
    return new Map([...scores, ...state]);
  }

  /** λ of both modules after a selection. */
  function settled(budget: number, scores: ReadonlyMap<string, readonly number[]>, select = 1): number[] {
    const scored = sites.map((site, i) => ({
      ...site,
      score: (key: string): Value => {
        const { shape } = (i === 0 ? m0 : m1)[key as Key];
        return parameter(`score ${site.module}.${key}`, "float32", shape);
      },
    }));
    const context = {
      scalar: scalarOf,
      state: (name: string, shape: readonly number[]): Value => parameter(`#${name}`, "float32", shape),
    };
    const made = adalora.training?.settle?.(scored, context, config);
    const outputs = Object.fromEntries(
      ["m0", "m1"].map((module) => [module, made?.parameters.get(module)?.["E"] as Value]),
    );
    const found = run(
      outputs,
      new Map([
        ...tensors.map(({ module, key, shape }): [string, Reference] => [
          `score ${module}.${key}`,
          reference(shape, [...(scores.get(`${module}.${key}`) ?? [])]),
        ]),
        ["adalora_budget", reference([], [budget])],
        ["adalora_select", reference([], [select])],
        ["adalora_mask", reference([], [1])],
        ["#pruned", reference([4], [0, 1, 0, 0])],
      ]),
    );
    return [...(found.get("m0") ?? []), ...(found.get("m1") ?? [])];
  }

  it("is the smoothed sensitivity times its uncertainty", () => {
    const first = scoresOf(1);
    expect(first.get("m0.E#sensitivity")?.map((x) => Number(x.toFixed(8)))).toEqual([0.045, 0.015]);
    expect(first.get("m1.E#uncertainty")?.map((x) => Number(x.toFixed(8)))).toEqual([0.003825, 0.0102]);
    const second = scoresOf(2);
    expect(second.get("m0.E#sensitivity")?.map((x) => Number(x.toFixed(8)))).toEqual([0.05325, 0.01575]);
    expect(second.get("m0.E#uncertainty")?.map((x) => Number(x.toFixed(8)))).toEqual([0.039525, 0.011475]);
    const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    const a = second.get("m0.A") ?? [];
    expect(mean(a.slice(0, 2))).toBeCloseTo(0.0019818281, 9);
    const b = second.get("m0.B") ?? [];
    expect(mean(b.filter((_, i) => i % 2 === 1))).toBeCloseTo(0.0020164125, 9);
    expect(second.get("m0.E")?.[0]).toBeCloseTo(0.0021047063, 9);
    // Of a triplet: λ's number, and the means over its column and its row.
    const triplets = (scores: ReadonlyMap<string, readonly number[]>): number[] =>
      (["m0", "m1"] as const).flatMap((module) =>
        [0, 1].map((i) => {
          const [row, width] = [scores.get(`${module}.A`) ?? [], modules[module].A.shape[1] ?? 0];
          const columns = (scores.get(`${module}.B`) ?? []).filter((_, at) => at % 2 === i);
          return (scores.get(`${module}.E`)?.[i] ?? 0) + mean(columns) + mean(row.slice(i * width, (i + 1) * width));
        }),
      );
    const expected = [
      [0.002263125, 0.001275, 0.00067065, 0.001429275],
      [0.0048320906, 0.0040197563, 0.0033410036, 0.0026684411],
    ];
    expect(triplets(scoresOf(1))).toEqual(expected[0]?.map((x) => expect.closeTo(x, 9)));
    expect(triplets(second)).toEqual(expected[1]?.map((x) => expect.closeTo(x, 9)));
  });

  it("changes by either decay, as its recurrences say", () => {
    const own = chooseMethod("adalora", { sensitivityDecay: 0.5, uncertaintyDecay: 0.25 }).config as never;
    // |λ·g| is 0.5·0.6, then 0.5·0.2: Ī ← 0.5Ī + 0.5I and U ← 0.25U + 0.75|I − Ī|.
    const [first, second] = [scoresOf(1, own), scoresOf(2, own)];
    expect(first.get("m0.E#sensitivity")?.[0]).toBeCloseTo(0.15, 9);
    expect(first.get("m0.E#uncertainty")?.[0]).toBeCloseTo(0.1125, 9);
    expect(second.get("m0.E#sensitivity")?.[0]).toBeCloseTo(0.125, 9);
    expect(second.get("m0.E#uncertainty")?.[0]).toBeCloseTo(0.046875, 9);
  });

  it("decides which triplets a budget keeps, and magnitude would decide otherwise", () => {
    const scores = scoresOf(2);
    expect(settled(3, scores)).toEqual([0.5, -0.2, 0.1, 0]);
    expect(settled(2, scores)).toEqual([0.5, -0.2, 0, 0]);
    expect(settled(1, scores)).toEqual([0.5, -0, 0, 0].map((x) => (x === 0 ? expect.closeTo(0) : x)));
  });

  it("keeps what was pruned before where nothing is selected anew", () => {
    expect(settled(4, scoresOf(2), 0)).toEqual([0.5, expect.closeTo(0), 0.1, 0.4]);
  });

  it("that is equal everywhere keeps exactly as many as the budget says, the first", () => {
    const equal = new Map(tensors.map(({ module, key, data }) => [`${module}.${key}`, data.map(() => 1)]));
    const kept = [0, 1, 2, 3, 4].map((budget) => settled(budget, equal).map((x) => Number(Math.abs(x) > 0)));
    expect(kept).toEqual([
      [0, 0, 0, 0],
      [1, 0, 0, 0],
      [1, 1, 0, 0],
      [1, 1, 1, 0],
      [1, 1, 1, 1],
    ]);
  });
});

describe("the orthogonality penalty", () => {
  const penaltyOf = (form: string, weight = 1): Value =>
    adalora.training?.penalty?.(sites, {
      ...(config as object),
      orthogonalForm: form,
      orthogonalWeight: weight,
    } as never) as Value;

  it("is a mean of norms in PEFT's form and a sum of squares in the paper's", () => {
    expect(run({ y: penaltyOf("peft") }).get("y")?.[0]).toBeCloseTo(3.6123516924, 5);
    expect(run({ y: penaltyOf("paper") }).get("y")?.[0]).toBeCloseTo(59.6321, 5);
    expect(run({ y: penaltyOf("paper", 0.1) }).get("y")?.[0]).toBeCloseTo(5.96321, 5);
  });

  it("has the gradient 2·P·M/‖M‖, and a finite one where all is orthonormal", () => {
    const B = leaf.get("m0.B") as Value;
    const [gradient] = differentiate(mul(penaltyOf("peft"), 4), [B]); // the mean is over four matrices
    expect(
      run({ y: gradient as Value })
        .get("y")
        ?.map((x) => Number(x.toFixed(6))),
    ).toEqual([1.6, -0.8, -0.8, 0.4, 4, -2]);
    const orthonormal = new Map(
      tensors.map(({ module, key, shape }) => [
        `${module}.${key}`,
        reference(
          shape,
          key === "B"
            ? Array.from({ length: shape[0] ?? 0 }, (_, i) => [Number(i === 0), Number(i === 1)]).flat()
            : Array.from({ length: shape[1] ?? 0 }, (_, j) => Number(j === 0)).concat(
                Array.from({ length: shape[1] ?? 0 }, (_, j) => Number(j === 1)),
              ),
        ),
      ]),
    );
    const E = orthonormal.get("m0.E");
    if (E) orthonormal.set("m0.E", reference([2, 1], [0, 0])).set("m1.E", reference([2, 1], [0, 0]));
    const flat = run({ y: penaltyOf("peft"), dy: gradient as Value }, orthonormal);
    expect(flat.get("y")?.[0]).toBeCloseTo(0, 5);
    expect(flat.get("dy")).toEqual([0, 0, 0, 0, 0, 0]);
  });
});

describe("the update", () => {
  const read = (key: string): Value => leaf.get(`m0.${key}`) as Value;
  const zero = parameter("zero", "float32", [3, 2]);
  const x = parameter("x", "float32", [1, 2]);
  const y = parameter("y", "float32", [1, 3]);
  const more = new Map([
    ["zero", reference([3, 2], 0)],
    ["x", reference([1, 2], [1, 2])],
    ["y", reference([1, 3], 0)],
    ["dy", reference([1, 3], [1, -1, 0.5])],
  ]);

  it("is scaled by alpha over the initial rank and PEFT's 1e-5", () => {
    const delta = run({ y: adalora.merge(zero, read, config, { module: "m", weight: zero }) }, more).get("y") ?? [];
    [1.99999, -1.99999, -0.399998, -1.599992, 4.399978, -2.399988].forEach((value, i) => {
      expect(delta[i]).toBeCloseTo(value, 6);
    });
    const site = { module: "m0", weight: zero, inFeatures: 2, outFeatures: 3, layout: "out,in" } as const;
    const out = adalora.adapt({ site, x, y, bias: undefined, dropout: (given) => given }, read, config);
    [-1.99999, -3.599982, -0.399998].forEach((value, i) => {
      expect(run({ out }, more).get("out")?.[i]).toBeCloseTo(value, 6);
    });
    const pull = sumAll(mul(out, parameter("dy", "float32", [1, 3])));
    const [dE, dB, dA] = differentiate(pull, ["E", "B", "A"].map(read)) as [Value, Value, Value];
    const found = run({ dE, dB, dA }, more);
    const expected = {
      dE: [-7.99996, -26.999865],
      dB: [-1.99999, -3.599982, 1.99999, 3.599982, -0.999995, -1.799991],
      dA: [3.99998, 7.99996, 1.199994, 2.399988],
    };
    for (const [name, values] of Object.entries(expected)) {
      values.forEach((value, i) => {
        expect(found.get(name)?.[i], name).toBeCloseTo(value, 5);
      });
    }
  });

  it("with one triplet left is a LoRA of rank one that gives the same", () => {
    const tensorOf = (key: Key, data: readonly number[] = m0[key].data) =>
      ({ dtype: "float32", shape: m0[key].shape, data: Float32Array.from(data) }) as const;
    const lora = adalora.asLora?.({ A: tensorOf("A"), B: tensorOf("B"), E: tensorOf("E", [0.5, 0]) }, config, {
      inFeatures: 2,
    });
    expect([lora?.A.shape, lora?.B.shape]).toEqual([
      [1, 2],
      [3, 1],
    ]);
    const [a, b] = [lora?.A.data as Float32Array, lora?.B.data as Float32Array];
    const delta = [...b].flatMap((left) => [...a].map((right) => left * right));
    [1.99999, -1.99999, 0, 0, 3.99998, -3.99998].forEach((value, i) => {
      expect(delta[i]).toBeCloseTo(value, 5);
    });
  });
});
