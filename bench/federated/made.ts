import type { Change } from "../../src/federated/aggregate.ts";
import { type Tuned, trainedPieces } from "../../src/federated/factors.ts";
import { createRng, type Floats, type Matrix } from "../../src/linalg/index.ts";

/** A drawn matrix. */
export function drawn<T extends Floats>(
  kind: { new (length: number): T },
  rows: number,
  cols: number,
  seed: number,
): Matrix<T> {
  const rng = createRng(seed, "bench");
  const data = new kind(rows * cols);
  for (let i = 0; i < data.length; i++) data[i] = rng.normal() / Math.sqrt(cols);
  return { rows, cols, data };
}

/** RoBERTa-large's adapted layers: 48 modules of 1024 × 1024, rank 8, some way into training. */
export function roberta(modules = 48): Tuned {
  const factors = Array.from({ length: modules }, (_, k) => {
    const A = drawn(Float32Array, 8, 1024, 2 * k);
    return [`layer.${k}`, { A, B: drawn(Float32Array, 1024, 8, 2 * k + 1) }] as const;
  });
  return { factors: new Map(factors), whole: new Map(), residual: new Map() };
}

/** What a client changed. */
export function changeOf(base: Tuned, trains: readonly ("A" | "B")[], client: string, seed: number): Change {
  const rng = createRng(seed, client);
  const delta = [...trainedPieces(base, trains)].map(([name, { shape, data }]) => {
    const noise = rng.normal();
    return [name, { shape, data: data.map((value) => 0.01 * noise * value) }] as const;
  });
  return { client, examples: 100 + seed, delta: new Map(delta) };
}

/** Median milliseconds of a call. */
export async function medianMs(calls: number, work: (i: number) => unknown): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < calls; i++) {
    const started = performance.now();
    await work(i);
    times.push(performance.now() - started);
  }
  return times.sort((a, b) => a - b)[Math.floor(calls / 2)] ?? Number.NaN;
}
