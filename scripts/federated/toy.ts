import { aggregationDefaults, type Change } from "../../src/federated/aggregate.ts";
import { added, type Tuned, trainedPieces } from "../../src/federated/factors.ts";
import { chooseStrategy, type StrategyConfig } from "../../src/federated/strategies/table.ts";
import { createRng, type Matrix, matmul, type Rng } from "../../src/linalg/index.ts";
import { calibrateNoise } from "../../src/privacy/index.ts";
import { shareByDirichlet } from "../../src/train/data/partition.ts";

/*
 * A federation small enough for thousands of rounds in float64: a network of two layers, the first of which has a low-rank
 * update, with everything that FedSVD's algebra is about (Poisson batches, clipping by example, noise), and nothing else.
 */

/** Sizes and settings. */
export const toy: Readonly<
  Record<
    | ("inputs" | "hidden" | "labels" | "rank" | "changeRank" | "examples" | "tests")
    | ("clients" | "perRound" | "rounds" | "localSteps" | "batch" | "clip" | "delta" | "concentration"),
    number
  >
> = {
  ...{ inputs: 32, hidden: 128, labels: 4, rank: 16, changeRank: 32, examples: 2400, tests: 2000 },
  ...{ clients: 6, perRound: 3, rounds: 30, localSteps: 10, batch: 64, clip: 2, delta: 1e-5, concentration: 0.5 },
};

/** The data and the base model of a seed, with what does not change from run to run. */
export interface World {
  readonly w1: Matrix<Float64Array>;
  readonly w2: Matrix<Float64Array>;
  readonly train: Split;
  readonly test: Split;
  /** W1·x of every training example. */
  readonly before: Matrix<Float64Array>;
  /** Indices of each client's examples. */
  readonly clients: readonly (readonly number[])[];
}

interface Split {
  readonly x: Matrix<Float64Array>;
  readonly labels: Int32Array;
}

/** Draw a world. */
export function worldOf(seed: number): World {
  const rng = createRng(seed, "world");
  const normal = (rows: number, cols: number, scale: number): Matrix<Float64Array> => ({
    ...{ rows, cols },
    data: Float64Array.from({ length: rows * cols }, () => scale * rng.normal()),
  });
  const w1 = normal(toy.hidden, toy.inputs, 1.4 / Math.sqrt(toy.inputs));
  const w2 = normal(toy.labels, toy.hidden, 2 / Math.sqrt(toy.hidden));
  const change = matmul(normal(toy.hidden, toy.changeRank, 1), normal(toy.changeRank, toy.inputs, 1));
  const scale = (1.2 * Math.hypot(...w1.data)) / Math.hypot(...change.data);
  const goal = { ...w1, data: w1.data.map((value, i) => value + scale * (change.data[i] ?? 0)) };
  const split = (count: number): Split => {
    const x = normal(count, toy.inputs, 1);
    for (let i = 0; i < x.data.length; i++) {
      x.data[i] = (x.data[i] ?? 0) * (1.6 - (1.1 * (i % toy.inputs)) / (toy.inputs - 1));
    }
    return { x, labels: likeliest(x, goal, w2) };
  };
  const train = split(toy.examples);
  const clients = shareByDirichlet([...train.labels], {
    ...{ clients: toy.clients, concentration: toy.concentration, seed },
  });
  return { w1, w2, train, test: split(toy.tests), before: matmul(train.x, w1, { transB: true }), clients };
}

/** The label that the network says, of each row of x. */
function likeliest(x: Matrix<Float64Array>, w1: Matrix<Float64Array>, w2: Matrix<Float64Array>): Int32Array {
  const hidden = matmul(x, w1, { transB: true });
  hidden.data.forEach((value, i) => {
    hidden.data[i] = Math.max(0, value);
  });
  const logits = matmul(hidden, w2, { transB: true });
  return Int32Array.from({ length: x.rows }, (_, i) => {
    const own = logits.data.subarray(i * w2.rows, (i + 1) * w2.rows);
    return own.indexOf(Math.max(...own));
  });
}

/** One federation. */
export interface ToyRun {
  readonly strategy: string;
  readonly options?: Partial<StrategyConfig>;
  readonly epsilon: number;
  readonly learningRate: number;
  readonly seed: number;
}

/** Share of test rows that are right after the last round. */
export function runToy(world: World, { strategy: name, options, epsilon, learningRate, seed }: ToyRun): number {
  const { strategy, config } = chooseStrategy(name, options);
  const { w1, w2, train, test } = world;
  let tuned = fresh(seed);
  tuned = strategy.start?.(tuned, config) ?? tuned;
  const order = createRng(seed, "rounds");
  for (let round = 0; round < toy.rounds; round++) {
    const drawn = order.shuffle(Array.from({ length: toy.clients }, (_, k) => k)).slice(0, toy.perRound);
    const carried = tuned.residual.get("w1");
    const frozen = carried ? sum(w1, carried) : w1;
    const changes = drawn.map((k): Change<Float64Array> => {
      const own = world.clients[k] ?? [];
      const rate = Math.min(1, toy.batch / own.length);
      const steps = (toy.rounds * toy.localSteps) / 2;
      const noise = Number.isFinite(epsilon)
        ? calibrated(JSON.stringify([epsilon, own.length]), { epsilon, samplingRate: rate, steps })
        : 0;
      const after = localTraining(tuned, {
        ...{ frozen, w2, train, own, rate, noise, learningRate },
        before: carried ? undefined : world.before,
        clip: Number.isFinite(epsilon) ? toy.clip : Infinity,
        trainsA: strategy.trains.includes("A"),
        rng: createRng(seed, "client", k, round),
      });
      const delta = added(trainedPieces(after, strategy.trains), trainedPieces(tuned, strategy.trains), -1);
      return { client: `c${k}`, examples: own.length, delta };
    });
    const context = { round, rounds: toy.rounds, seed, aggregation: aggregationDefaults };
    tuned = strategy.follow(tuned, strategy.finish(tuned, changes, context, config), context, config);
    if (![...(tuned.factors.get("w1")?.B.data ?? [])].every(Number.isFinite)) return Number.NaN;
  }
  const { A, B } = factorsOf(tuned);
  const carried = tuned.residual.get("w1");
  const whole = sum(carried ? sum(w1, carried) : w1, matmul(B, A));
  const said = likeliest(test.x, whole, w2);
  return said.reduce((right, label, i) => right + Number(label === test.labels[i]), 0) / said.length;
}

const noises = new Map<string, number>();

function calibrated(key: string, given: { epsilon: number; samplingRate: number; steps: number }): number {
  const found = noises.get(key) ?? calibrateNoise({ ...given, delta: toy.delta, accountant: "rdp" });
  noises.set(key, found);
  return found;
}

function fresh(seed: number): Tuned<Float64Array> {
  const rng = createRng(seed, "A");
  const bound = 1 / Math.sqrt(toy.inputs);
  const A = Float64Array.from({ length: toy.rank * toy.inputs }, () => bound * (2 * rng.uniform() - 1));
  return {
    factors: new Map([
      [
        "w1",
        {
          A: { rows: toy.rank, cols: toy.inputs, data: A },
          B: { rows: toy.hidden, cols: toy.rank, data: new Float64Array(toy.hidden * toy.rank) },
        },
      ],
    ]),
    whole: new Map(),
    residual: new Map(),
  };
}

function factorsOf(tuned: Tuned<Float64Array>) {
  const found = tuned.factors.get("w1");
  if (!found) throw new Error("w1 is tuned");
  return found;
}

function sum(a: Matrix<Float64Array>, b: Matrix<Float64Array>): Matrix<Float64Array> {
  return { ...a, data: a.data.map((value, i) => value + (b.data[i] ?? 0)) };
}

interface LocalOptions {
  readonly frozen: Matrix<Float64Array>;
  /** What the frozen weights make of every example, where that is known. */
  readonly before: Matrix<Float64Array> | undefined;
  readonly w2: Matrix<Float64Array>;
  readonly train: Split;
  readonly own: readonly number[];
  readonly rate: number;
  readonly noise: number;
  readonly learningRate: number;
  readonly clip: number;
  readonly trainsA: boolean;
  readonly rng: Rng;
}

/** DP-SGD on the factors, one flat norm over all that is trained, with the expected batch as the divisor. */
function localTraining(start: Tuned<Float64Array>, options: LocalOptions): Tuned<Float64Array> {
  const { frozen, w2, train, own, rate, noise, learningRate, clip, trainsA, rng } = options;
  const [h, d, r, labels] = [toy.hidden, toy.inputs, toy.rank, toy.labels];
  const given = factorsOf(start);
  const A = given.A.data.slice();
  const B = given.B.data.slice();
  const gB = new Float64Array(h * r);
  const gA = new Float64Array(r * d);
  const a = new Float64Array(r);
  const z = new Float64Array(h);
  const e = new Float64Array(h);
  const u = new Float64Array(r);
  const expected = rate * own.length;
  const before = options.before?.data;
  for (let step = 0; step < toy.localSteps; step++) {
    gB.fill(0);
    gA.fill(0);
    for (const index of own) {
      if (rng.uniform() >= rate) continue;
      const x = train.x.data.subarray(index * d, (index + 1) * d);
      for (let k = 0; k < r; k++) a[k] = dotOf(A, k * d, x, d);
      const plain = before?.subarray(index * h, (index + 1) * h);
      for (let i = 0; i < h; i++)
        z[i] = (plain ? (plain[i] ?? 0) : dotOf(frozen.data, i * d, x, d)) + dotOf(B, i * r, a, r);
      const logits = Array.from({ length: labels }, (_, l) => {
        let total = 0;
        for (let i = 0; i < h; i++) total += (w2.data[l * h + i] ?? 0) * Math.max(0, z[i] ?? 0);
        return total;
      });
      const most = Math.max(...logits);
      const powers = logits.map((value) => Math.exp(value - most));
      const total = powers.reduce((s, value) => s + value, 0);
      const errors = powers.map((value, l) => value / total - Number(l === train.labels[index]));
      let squareE = 0;
      for (let i = 0; i < h; i++) {
        let back = 0;
        if ((z[i] ?? 0) > 0) for (let l = 0; l < labels; l++) back += (errors[l] ?? 0) * (w2.data[l * h + i] ?? 0);
        e[i] = back;
        squareE += back * back;
      }
      let square = squareE * dotOf(a, 0, a, r);
      if (trainsA) {
        u.fill(0);
        for (let i = 0; i < h; i++) {
          const own = e[i] ?? 0;
          if (own !== 0) for (let k = 0; k < r; k++) u[k] = (u[k] ?? 0) + own * (B[i * r + k] ?? 0);
        }
        square += dotOf(u, 0, u, r) * dotOf(x, 0, x, d);
      }
      const factor = Math.min(1, clip / (Math.sqrt(square) + 1e-6));
      for (let i = 0; i < h; i++) {
        const scaled = factor * (e[i] ?? 0);
        if (scaled !== 0) for (let k = 0; k < r; k++) gB[i * r + k] = (gB[i * r + k] ?? 0) + scaled * (a[k] ?? 0);
      }
      if (!trainsA) continue;
      for (let k = 0; k < r; k++) {
        const scaled = factor * (u[k] ?? 0);
        for (let j = 0; j < d; j++) gA[k * d + j] = (gA[k * d + j] ?? 0) + scaled * (x[j] ?? 0);
      }
    }
    const deviation = noise > 0 ? noise * clip : 0;
    const move = (values: Float64Array, gradient: Float64Array): void => {
      for (let i = 0; i < values.length; i++) {
        const noised = (gradient[i] ?? 0) + (deviation > 0 ? deviation * rng.normal() : 0);
        values[i] = (values[i] ?? 0) - (learningRate * noised) / expected;
      }
    };
    move(B, gB);
    if (trainsA) move(A, gA);
  }
  return { ...start, factors: new Map([["w1", { A: { ...given.A, data: A }, B: { ...given.B, data: B } }]]) };
}

function dotOf(a: Float64Array, from: number, b: Float64Array, length: number): number {
  let total = 0;
  for (let i = 0; i < length; i++) total += (a[from + i] ?? 0) * (b[i] ?? 0);
  return total;
}
