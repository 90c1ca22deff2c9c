import { describe, expect, test } from "vitest";
import { createRng, type Floats, type Matrix, matmul, toFloat64, zeroMatrix } from "../../linalg/index.ts";
import { aggregationDefaults, type Change } from "../aggregate.ts";
import { added, countOf, type Pieces, pieceName, piecesOf, type Tuned, trainedPieces } from "../factors.ts";
import { furthestFromOrthonormal } from "../refactor.ts";
import type { RoundContext, Strategy } from "./strategy.ts";
import { chooseStrategy, strategies } from "./table.ts";

type Any = Strategy<Record<string, number | boolean | string>>;
const all = [...strategies.values()].flatMap((strategy) =>
  strategy.samples.map((sample): [string, Any, Record<string, number | boolean | string>] => [
    `${strategy.name} ${JSON.stringify(sample)}`,
    strategy,
    chooseStrategy(strategy.name, sample).config,
  ]),
);
const rank = 3;
const shapes: readonly [string, number, number][] = [
  ["layer.q", 7, 5],
  ["layer.v", 4, 9],
];

test("every strategy has samples", () => {
  for (const { name, samples } of strategies.values()) expect(samples.length, name).toBeGreaterThan(0);
});

describe.each(all)("%s", (_name, strategy, config) => {
  const at = (round: number): RoundContext => ({ round, rounds: 6, seed: 5 });
  const finish = (base: Tuned<Float64Array>, changes: readonly Change<Float64Array>[], round: number) => {
    const news = strategy.finish(base, changes, { ...at(round), aggregation: aggregationDefaults }, config);
    return { news, next: strategy.follow(base, news, at(round), config) };
  };
  const begin = (): Tuned<Float64Array> => {
    const initial = fresh(Float64Array);
    return strategy.start?.(initial, config) ?? initial;
  };

  test("a fresh start is the base model", () => {
    for (const update of weights(begin()).values()) expect(largest(update)).toBe(0);
  });

  test("the result of one client is its own", () => {
    const base = moved(begin(), strategy, 1);
    const change = drawnChange(base, strategy, "a", 2);
    const { next } = finish(base, [change], 0);
    same(weights(next), weights(trainedTo(base, change)), 1e-12);
    same(whole(next), whole(trainedTo(base, change)), 1e-12);
  });

  test("uploads of zeros leave the weights alone for every number of rounds", () => {
    let tuned = moved(begin(), strategy, 3);
    const before = weights(tuned);
    for (let round = 0; round < 6; round++) {
      const zero = ["a", "b"].map((client) => ({ ...drawnChange(tuned, strategy, client, 1, 0), examples: 3 }));
      tuned = finish(tuned, zero, round).next;
      same(weights(tuned), before, 1e-12);
    }
  });

  test("the order of uploads does not matter, to the last bit", () => {
    const base = moved(begin(), strategy, 4);
    const changes = ["c", "a", "b"].map((client, i) => drawnChange(base, strategy, client, 10 + i));
    const [one, other] = [finish(base, changes, 1), finish(base, changes.toReversed(), 1)];
    expect([...piecesOf(one.next)]).toEqual([...piecesOf(other.next)]);
  });

  test("what clients follow is what was meant: the mean of what they trained, for those whose mean is exact", () => {
    const base = moved(begin(), strategy, 6);
    const changes = ["a", "b", "c"].map((client, i) => drawnChange(base, strategy, client, 20 + i));
    const total = changes.reduce((sum, { examples }) => sum + examples, 0);
    const { next } = finish(base, changes, 0);
    const found = weights(next);
    const mean = new Map([...found].map(([module, { rows, cols }]) => [module, zeroMatrix(rows, cols)]));
    for (const change of changes) {
      for (const [module, { data }] of weights(trainedTo(base, change))) {
        const sum = mean.get(module)?.data ?? new Float64Array();
        for (let i = 0; i < data.length; i++) sum[i] = (sum[i] ?? 0) + (change.examples / total) * (data[i] ?? 0);
      }
    }
    if (strategy.name === "fedavg") expect(furthest(found, mean)).toBeGreaterThan(1e-3);
    else same(found, mean, 1e-12);
  });

  test("float32 travels: the news of a round, read back, lead to the same bits", () => {
    const initial = fresh(Float32Array);
    const base = strategy.start?.(initial, config) ?? initial;
    const changes = ["a", "b"].map((client, i) => drawnChange(base, strategy, client, 30 + i));
    const context = { ...at(2), aggregation: aggregationDefaults };
    const news = strategy.finish(base, changes, context, config);
    const copy: Pieces = new Map([...news].map(([name, piece]) => [name, { ...piece, data: piece.data.slice() }]));
    const [here, there] = [strategy.follow(base, news, at(2), config), strategy.follow(base, copy, at(2), config)];
    expect([...piecesOf(there)]).toEqual([...piecesOf(here)]);
    for (const { data } of piecesOf(here).values()) expect(data).toBeInstanceOf(Float32Array);
  });

  test("what it carries beside the factors, it says", () => {
    let tuned = begin();
    for (let round = 0; round < 4; round++) {
      tuned = finish(tuned, [drawnChange(tuned, strategy, "a", round)], round).next;
    }
    expect(tuned.residual.size > 0).toBe(strategy.carries(config));
  });
});

describe("FedSVD", () => {
  test("E1: from an orthonormal start it computes what FFA-orth computes, clipped or not, whatever the period", () => {
    for (const clip of [Number.POSITIVE_INFINITY, 0.5]) {
      const [one] = simulated("ffa-orth", {}, clip, Float64Array);
      for (const period of [1, 2, 5]) {
        const [other] = simulated("fedsvd", { period }, clip, Float64Array);
        same(other, one, 1e-10);
      }
      const [single] = simulated("ffa-orth", {}, clip, Float32Array);
      const [found] = simulated("fedsvd", {}, clip, Float32Array);
      const size = Math.max(...[...single.values()].map(largest));
      same(found, single, 1e-4 * size);
      expect(furthest(one, simulated("ffa", {}, clip, Float64Array)[0])).toBeGreaterThan(1e-3); // another A is another run
    }
  });

  test("§1.8.1: A never leaves the row space that it started with, and a refresh does leave it", () => {
    const projector = (A: Matrix): Matrix<Float64Array> => matmul(toFloat64(A), A, { transA: true });
    const rowSpace = (name: string, config: Record<string, number>): readonly Matrix<Float64Array>[] => {
      const [, tuned] = simulated(name, config, 1, Float64Array);
      return [...tuned.factors.values()].map(({ A }) => projector(A));
    };
    const start = rowSpace("ffa-orth", {});
    for (const [i, found] of rowSpace("fedsvd", {}).entries()) {
      expect(difference(found, start[i] as Matrix)).toBeLessThan(1e-12);
    }
    for (const [i, found] of rowSpace("fedsvd", { refreshEvery: 1, refreshKeep: 1 }).entries()) {
      expect(difference(found, start[i] as Matrix)).toBeGreaterThan(0.1);
    }
  });

  test("rows stay orthonormal in float32 over 100 rounds", () => {
    const [, tuned] = simulated("fedsvd", {}, 1, Float32Array, 100);
    for (const { A } of tuned.factors.values()) expect(furthestFromOrthonormal(A)).toBeLessThan(1e-5);
  });
});

describe("numbers that travel: §1.4, 48 modules of 1024 × 1024, rank 8", () => {
  const big = (): Tuned => {
    const B = { rows: 1024, cols: 8, data: new Float32Array(8192) };
    const rng = createRng(1, "wire");
    const A = { rows: 8, cols: 1024, data: Float32Array.from({ length: 8192 }, () => rng.normal()) };
    return { factors: new Map([["q", { A, B }]]), whole: new Map(), residual: new Map() };
  };
  test.each([
    ["fedavg", 786_432, 786_432],
    ["ffa", 393_216, 393_216],
    ["ffa-orth", 393_216, 393_216],
    ["fedsvd", 393_216, 396_288],
    // The paper counts dense updates (52,169,730 with a head of 1,051,650); stacks of 3 clients say the same in less.
    ["flora", 786_432, 3 * 786_432],
    ["fedex", 786_432, 4 * 786_432],
  ])("%s: %i up, %i down", (name, up, down) => {
    const { strategy, config } = chooseStrategy(name);
    const base = strategy.start?.(big(), config) ?? big();
    const changes = ["a", "b", "c"].map((client, i) => drawnChange(base, strategy, client, i));
    expect(48 * countOf(changes[0]?.delta ?? new Map())).toBe(up);
    const context = { round: 0, rounds: 3, seed: 0, aggregation: aggregationDefaults };
    expect(48 * countOf(strategy.finish(base, changes, context, config))).toBe(down);
  });
});

describe("choosing", () => {
  test("names and options that are none are refused with the nearest", () => {
    expect(() => chooseStrategy("fedsdv")).toThrow(/nearest: fedsvd/);
    expect(() => chooseStrategy("ffa", { period: 2 })).toThrow(/fedsvd/);
    expect(() => chooseStrategy("fedsvd", { refreshKeep: 2 })).toThrow(/nothing is refreshed/);
    expect(() => chooseStrategy("fedsvd", { period: 0 })).toThrow(/at least 1/);
    const { strategy, config } = chooseStrategy("fedsvd", { refreshEvery: 1, refreshKeep: 8 });
    expect(strategy.check?.(8, config)).toMatch(/below the rank/);
  });
});

/** Weight updates after rounds of gradient descent on a quadratic loss of each client, three of four clients a round. */
function simulated<T extends Floats>(
  name: string,
  options: Record<string, number>,
  clip: number,
  kind: { new (length: number): T },
  rounds = 15,
): readonly [ReadonlyMap<string, Matrix<Float64Array>>, Tuned<T>] {
  const { strategy, config } = chooseStrategy(name, options);
  const initial = fresh(kind);
  let tuned = strategy.start?.(initial, config) ?? initial;
  const targets = [0, 1, 2, 3].map((k) => {
    const rng = createRng(40 + k, "target");
    return new Map(shapes.map(([module, m, n]) => [module, Float64Array.from({ length: m * n }, () => rng.normal())]));
  });
  for (let round = 0; round < rounds; round++) {
    const changes = targets.flatMap((target, k): Change<T>[] => {
      if ((k + round) % 4 === 0) return [];
      const before = trainedPieces(tuned, ["B"]);
      let own = tuned;
      for (let step = 0; step < 3; step++) {
        const gradients = [...own.factors].map(([module, { A, B }]) => {
          const wanted = target.get(module) ?? new Float64Array();
          const error = matmul(toFloat64(B), A);
          error.data.forEach((value, i) => {
            error.data[i] = value - (wanted[i] ?? 0);
          });
          return { module, g: matmul(error, A, { transB: true }) };
        });
        const norm = Math.hypot(...gradients.map(({ g }) => Math.hypot(...g.data)));
        const factor = 0.1 * Math.min(1, clip / norm);
        const factors = new Map(own.factors);
        for (const { module, g } of gradients) {
          const { A, B } = own.factors.get(module) as { A: Matrix<T>; B: Matrix<T> };
          factors.set(module, { A, B: { ...B, data: B.data.map((v, i) => v - factor * (g.data[i] ?? 0)) as T } });
        }
        own = { ...own, factors };
      }
      return [{ client: `c${k}`, examples: 1 + k, delta: added(trainedPieces(own, ["B"]), before, -1) }];
    });
    const context = { round, rounds, seed: 1, aggregation: aggregationDefaults };
    tuned = strategy.follow(tuned, strategy.finish(tuned, changes, context, config), context, config);
  }
  return [weights(tuned), tuned];
}

function fresh<T extends Floats>(kind: { new (length: number): T }): Tuned<T> {
  const rng = createRng(7, "fresh");
  const factors = shapes.map(([module, m, n]): [string, { A: Matrix<T>; B: Matrix<T> }] => {
    const A = new kind(rank * n);
    for (let i = 0; i < A.length; i++) A[i] = (2 * rng.uniform() - 1) / Math.sqrt(n);
    return [module, { A: { rows: rank, cols: n, data: A }, B: { rows: m, cols: rank, data: new kind(m * rank) } }];
  });
  return {
    factors: new Map(factors),
    whole: new Map([["head", { shape: [2], data: new kind(2) }]]),
    residual: new Map(),
  };
}

/** Some way into training: B is no longer zero. */
function moved(tuned: Tuned<Float64Array>, strategy: Any, seed: number): Tuned<Float64Array> {
  return trainedTo(tuned, drawnChange(tuned, strategy, "x", seed));
}

function drawnChange<T extends Floats>(
  base: Tuned<T>,
  { trains }: Any,
  client: string,
  seed: number,
  size = 1,
): Change<T> {
  const rng = createRng(seed, "change", client);
  const delta = [...trainedPieces(base, trains)].map(
    ([name, { shape, data }]): [string, { shape: readonly number[]; data: T }] => [
      name,
      { shape, data: data.map(() => size * rng.normal()) as T },
    ],
  );
  return { client, examples: 1 + seed, delta: new Map(delta) };
}

function trainedTo<T extends Floats>(base: Tuned<T>, { delta }: Change<T>): Tuned<T> {
  const plus = <M extends Matrix<T>>(matrix: M, name: string): M => {
    const change = delta.get(name)?.data;
    return { ...matrix, data: matrix.data.map((value, i) => value + (change?.[i] ?? 0)) as T };
  };
  return {
    factors: new Map(
      [...base.factors].map(([module, { A, B }]) => [
        module,
        { A: plus(A, pieceName("A", module)), B: plus(B, pieceName("B", module)) },
      ]),
    ),
    whole: new Map(
      [...base.whole].map(([name, { shape, data }]) => [
        name,
        { shape, data: data.map((v, i) => v + (delta.get(`W/${name}`)?.data[i] ?? 0)) as T },
      ]),
    ),
    residual: base.residual,
  };
}

function weights(tuned: Tuned<Floats>): ReadonlyMap<string, Matrix<Float64Array>> {
  return new Map(
    [...tuned.factors].map(([module, { A, B }]) => {
      const product = matmul(toFloat64(B), A);
      const carried = tuned.residual.get(module)?.data;
      return [module, { ...product, data: product.data.map((value, i) => value + (carried?.[i] ?? 0)) }];
    }),
  );
}

function whole(tuned: Tuned<Float64Array>): ReadonlyMap<string, Matrix<Float64Array>> {
  return new Map([...tuned.whole].map(([name, { data }]) => [name, { rows: 1, cols: data.length, data }]));
}

function largest({ data }: Matrix): number {
  return Array.from(data).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function difference(a: Matrix, b: Matrix): number {
  return Array.from(a.data).reduce((most, value, i) => Math.max(most, Math.abs(value - (b.data[i] ?? 0))), 0);
}

function furthest(found: ReadonlyMap<string, Matrix>, wanted: ReadonlyMap<string, Matrix>): number {
  return Math.max(...[...wanted].map(([module, matrix]) => difference(matrix, found.get(module) as Matrix)));
}

function same(found: ReadonlyMap<string, Matrix>, wanted: ReadonlyMap<string, Matrix>, within: number): void {
  expect([...found.keys()]).toEqual([...wanted.keys()]);
  expect(furthest(found, wanted)).toBeLessThanOrEqual(within);
}
