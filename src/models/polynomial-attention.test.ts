import { describe, expect, it } from "vitest";
import { graph, input, type Value } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import { mul, type Reference, sumAll } from "../ops/index.ts";
import { differentiate, evaluate } from "../transforms/index.ts";
import { type PolynomialOptions, polynomialHeads, polynomialMasks } from "./polynomial-attention.ts";

interface Case extends PolynomialOptions {
  readonly heads: number;
  readonly kvHeads: number;
  readonly d: number;
  readonly positions: readonly (readonly number[])[];
  readonly alone: boolean;
}

function gaussian(length: number, name: string): Float64Array {
  const rng = createRng(5, name);
  return Float64Array.from({ length }, () => rng.normal());
}

function reference(
  shape: readonly number[],
  data: ArrayLike<number>,
  dtype: "float32" | "int64" = "float32",
): Reference {
  return { dtype, shape, data: Float64Array.from(data) };
}

/** The graph of the output, or of a loss of it with its gradients. */
function build(of: Case, gradients: boolean) {
  const { heads, kvHeads, d, chunk, alone } = of;
  const seq = `${chunk}*n`;
  const query = input("q", "float32", ["batch", heads, seq, d]);
  const key = input("k", "float32", ["batch", kvHeads, seq, d]);
  const value = input("v", "float32", ["batch", kvHeads, seq, d]);
  const weights = input("w", "float32", ["batch", heads, seq, d]);
  const positions = input("p", "int64", ["batch", seq]);
  const masks = polynomialMasks(positions, chunk, { alone });
  const { out, ranges } = polynomialHeads(query, { key, value }, 1 / Math.sqrt(d), masks, of);
  const inputs = [query, key, value, weights, positions];
  if (!gradients) return graph({ inputs: inputs.filter((one) => one !== weights), outputs: { out, ranges } });
  const loss = sumAll(mul(out, weights));
  const [q, k, v] = differentiate(loss, [query, key, value]) as [Value, Value, Value]; // three asked for
  return graph({ inputs, outputs: { loss, dq: q, dk: k, dv: v } });
}

function feedsOf({ heads, kvHeads, d, positions }: Case): Map<string, Reference> {
  const [batch, seq] = [positions.length, positions[0]?.length ?? 0];
  const some = (name: string, rows: number): Reference =>
    reference([batch, rows, seq, d], gaussian(batch * rows * seq * d, name));
  return new Map([
    ["q", some("q", heads)],
    ["k", some("k", kvHeads)],
    ["v", some("v", kvHeads)],
    ["w", some("w", heads)],
    ["p", reference([batch, seq], positions.flat(), "int64")],
  ]);
}

/** The same by a plain double loop: exact within a chunk and with a document's first token. */
function plainly({ heads, kvHeads, d, positions, chunk, degree, centres = {} }: Case, feeds: Map<string, Reference>) {
  const out: number[] = [];
  const at = (name: string, b: number, h: number, rows: number, i: number, a: number): number => {
    const seq = positions[b]?.length ?? 0;
    return feeds.get(name)?.data[((b * rows + h) * seq + i) * d + a] ?? Number.NaN;
  };
  for (const [b, row] of positions.entries())
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor(h / (heads / kvHeads));
      const centre = (which: "key" | "query", a: number): number => centres[which]?.[kv * d + a] ?? 0;
      for (const [i, position] of row.entries()) {
        let sum = 0;
        const mixed = new Float64Array(d);
        for (let j = i - position; j <= i; j++) {
          let [score, shift] = [0, 0];
          for (let a = 0; a < d; a++) {
            const k = at("k", b, kv, kvHeads, j, a) - centre("key", a);
            score += ((at("q", b, h, heads, i, a) - centre("query", a)) * k) / Math.sqrt(d);
            shift += (centre("query", a) * k) / Math.sqrt(d);
          }
          const exact = j === i - position || Math.floor(i / chunk) === Math.floor(j / chunk);
          let [polynomial, term] = [0, 1];
          for (let t = 0; t <= degree; t++) {
            polynomial += term;
            term *= score / (t + 1);
          }
          const weight = (exact ? Math.exp(score) : polynomial) * Math.exp(shift);
          sum += weight;
          for (let a = 0; a < d; a++) mixed[a] = (mixed[a] ?? 0) + weight * at("v", b, kv, kvHeads, j, a);
        }
        out.push(...mixed.map((x) => x / sum));
      }
    }
  return out;
}

const count = (n: number): readonly number[] => Array.from({ length: n }, (_, i) => i);
const packed = [
  [...count(6), ...count(4), ...count(2), ...count(4)],
  [...count(2), ...count(9), 0, 0, 0, ...count(2)],
];
const cases: Readonly<Record<string, Case>> = {
  "degree 2": { degree: 2, chunk: 4, heads: 1, kvHeads: 1, d: 4, positions: [count(16)], alone: true },
  "degree 4": { degree: 4, chunk: 4, heads: 1, kvHeads: 1, d: 4, positions: [count(16)], alone: true },
  "heads that share keys": { degree: 2, chunk: 4, heads: 4, kvHeads: 2, d: 4, positions: [count(12)], alone: true },
  "packed documents": { degree: 2, chunk: 4, heads: 4, kvHeads: 2, d: 4, positions: packed, alone: false },
  "packed documents, degree 4": { degree: 4, chunk: 4, heads: 2, kvHeads: 2, d: 4, positions: packed, alone: false },
  centres: {
    ...{ degree: 2, chunk: 4, heads: 4, kvHeads: 2, d: 4, positions: packed, alone: false },
    centres: { key: [0.25, -0.125, 0.5, 0.5, 0, 0.25, 1, -1], query: [-0.25, 0.125, 0.25, 0.5, 0.5, 0, 0, 1] },
  },
};

describe.each(Object.entries(cases))("polynomial attention: %s", (_, of) => {
  it("gives what a plain loop over keys gives", () => {
    const feeds = feedsOf(of);
    const out = evaluate(build(of, false), feeds).get("out") as Reference; // its one output
    const wanted = plainly(of, feeds);
    out.data.forEach((x, i) => {
      expect(x).toBeCloseTo(wanted[i] ?? Number.NaN, 7);
    });
  });

  it("bounds the scores of all but first tokens", () => {
    const feeds = feedsOf(of);
    const ranges = evaluate(build(of, false), feeds).get("ranges") as Reference; // one of its two outputs
    const { heads, kvHeads, d, positions, centres = {} } = of;
    for (let kv = 0; kv < kvHeads; kv++) {
      const norm = (name: string, h: number, rows: number, which: "key" | "query"): number =>
        Math.max(
          ...positions.flatMap((row, b) =>
            row.map((position, i) => {
              const from = ((b * rows + h) * row.length + i) * d;
              const vector = feeds.get(name)?.data.slice(from, from + d) ?? [];
              return position === 0 ? 0 : Math.hypot(...vector.map((x, a) => x - (centres[which]?.[kv * d + a] ?? 0)));
            }),
          ),
        );
      const group = heads / kvHeads;
      const queries = Array.from({ length: group }, (_, g) => norm("q", kv * group + g, heads, "query"));
      const wanted = (Math.max(...queries) * norm("k", kv, kvHeads, "key")) / Math.sqrt(d);
      expect(ranges.data[kv]).toBeCloseTo(wanted, 7);
    }
  });

  it("has the gradients that central differences have", () => {
    const feeds = feedsOf(of);
    const made = build(of, true);
    const gradients = evaluate(made, feeds);
    const loss = (): number => evaluate(made, feeds).get("loss")?.data[0] ?? Number.NaN;
    for (const name of ["q", "k", "v"]) {
      const data = feeds.get(name)?.data as Float64Array; // fed above
      for (let i = 0; i < data.length; i += 37) {
        const was = data[i] as number; // within
        const step = 1e-5;
        data[i] = was + step;
        const up = loss();
        data[i] = was - step;
        const down = loss();
        data[i] = was;
        expect(gradients.get(`d${name}`)?.data[i]).toBeCloseTo((up - down) / (2 * step), 6);
      }
    }
  });
});
