import { type TaylorDegree, taylorDegrees } from "../../models/index.ts";

/** What a query head reads of one text: scores are query·key, with the layer's scale in the queries. */
export interface HeadText {
  readonly headDim: number;
  readonly valueDim: number;
  /** [places, headDim], and where they stand in the text, ascending. */
  readonly queries: Float32Array;
  readonly places: readonly number[];
  /** [L, headDim] and [L, valueDim]. */
  readonly keys: Float32Array;
  readonly values: Float32Array;
  /** Subtracted from queries and keys before the polynomial, [headDim] each. */
  readonly centres: { readonly query?: Float32Array; readonly key?: Float32Array };
}

/** Scores and errors at the sampled places of a text. */
export interface HeadSample {
  /** |score| of every key that a sampled query sees, ascending. */
  readonly sizes: Float32Array;
  /** Of some sampled queries, by degree: ‖Õ − O‖/‖O‖, Õ by the polynomial beyond the query's own chunk and the first token. */
  readonly errors: Readonly<Record<TaylorDegree, readonly number[]>>;
}

/** Look at the sampled queries of a head: the scores of all, and the errors of every `errorEvery`-th, which take longer. */
export function sampleHead(
  text: HeadText,
  { chunk, errorEvery }: { readonly chunk: number; readonly errorEvery: number },
): HeadSample {
  const { headDim, valueDim, queries, places, keys, values, centres } = text;
  const sizes = new Float32Array(places.reduce((sum, place) => sum + place + 1, 0));
  const errors: Record<TaylorDegree, number[]> = { 2: [], 4: [] };
  const scores = new Float64Array((places.at(-1) ?? 0) + 1);
  const shifts = keyShifts(text);
  let filled = 0;
  for (const [row, place] of places.entries()) {
    const at = row * headDim;
    for (let j = 0; j <= place; j++) {
      const score = dot(queries, at, keys, j * headDim, headDim);
      scores[j] = score;
      sizes[filled++] = Math.abs(score);
    }
    if (row % errorEvery !== 0) continue;
    const offset = centres.key ? dot(queries, at, centres.key, 0, headDim) : 0; // all scores of the row change alike
    const mixed = (weigh: (score: number, j: number) => number): Float64Array =>
      mix(place, values, valueDim, (j) => weigh((scores[j] as number) - offset, j)); // filled up to the place
    const exact = mixed(Math.exp);
    const begins = place - (place % chunk);
    for (const degree of taylorDegrees) {
      const polynomial = mixed((score, j) => {
        const shift = shifts[j] as number; // one a key
        return j === 0 || j >= begins ? Math.exp(score) : taylor(degree, score - shift) * Math.exp(shift);
      });
      errors[degree].push(distance(polynomial, exact));
    }
  }
  return { sizes: sizes.sort(), errors };
}

/** What the centre of queries adds to the score with each centred key. */
function keyShifts({ keys, headDim, centres: { query, key } }: HeadText): Float64Array {
  const shifts = new Float64Array(keys.length / headDim);
  if (query === undefined) return shifts;
  const offset = key ? dot(query, 0, key, 0, headDim) : 0;
  for (let j = 0; j < shifts.length; j++) shifts[j] = dot(query, 0, keys, j * headDim, headDim) - offset;
  return shifts;
}

function dot(a: Float32Array, from: number, b: Float32Array, at: number, count: number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += (a[from + i] as number) * (b[at + i] as number); // within both
  return sum;
}

function taylor(degree: TaylorDegree, score: number): number {
  return degree === 2
    ? 1 + score * (1 + score / 2)
    : 1 + score * (1 + (score / 2) * (1 + (score / 3) * (1 + score / 4)));
}

/** The mean of the values up to a place, by weights. */
function mix(place: number, values: Float32Array, width: number, weigh: (j: number) => number): Float64Array {
  const mixed = new Float64Array(width);
  let sum = 0;
  for (let j = 0; j <= place; j++) {
    const weight = weigh(j);
    sum += weight;
    for (let a = 0; a < width; a++) mixed[a] = (mixed[a] as number) + weight * (values[j * width + a] as number); // within
  }
  return mixed.map((x) => x / sum);
}

function distance(a: Float64Array, b: Float64Array): number {
  let [off, size] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    off += ((a[i] as number) - (b[i] as number)) ** 2; // as long
    size += (b[i] as number) ** 2;
  }
  return Math.sqrt(off / Math.max(size, 1e-300));
}
