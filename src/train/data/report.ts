import { growing, sequencesOf } from "./store.ts";
import type { TokenizedExample } from "./tokenize.ts";

/** What training data looks like to a model. */
export interface DataReport {
  readonly examples: number;
  /** Tokens of all examples, and those of them that are learnt. */
  readonly tokens: number;
  readonly trainedTokens: number;
  /** Lengths in tokens of examples; of each of their sequences, where they hold several. */
  readonly lengths: Readonly<Record<"shortest" | "median" | "p95" | "longest", number>>;
  /** How many examples are up to so many tokens long, and longer than the entry before says. */
  readonly histogram: readonly { readonly upTo: number; readonly count: number }[];
  /** Examples whose tokens are those of an earlier one, by the lines of their rows. */
  readonly duplicates: readonly number[];
}

/** About how many bars a histogram has. */
const bars = 20;

/** Count, measure and compare examples. */
export function reportData(examples: readonly TokenizedExample[]): DataReport {
  const reporter = createReporter();
  for (const example of examples) reporter.add(example);
  return reporter.report();
}

/** A report of examples that come one by one; keeps 24 bytes of each. */
export function createReporter(): { add(example: TokenizedExample): void; report(): DataReport } {
  const [lengthList, keys, lines] = [growing(), growing(), growing()];
  let trainedTokens = 0;
  const add = (example: TokenizedExample): void => {
    const sequences = sequencesOf(example);
    for (const { inputIds, trained } of sequences) {
      lengthList.push(inputIds.length);
      for (const mark of trained) trainedTokens += mark;
    }
    keys.push(hashNumber(sequences.flatMap(({ inputIds }) => [inputIds.length, ...inputIds])));
    lines.push(example.line);
  };
  const report = (): DataReport => {
    const lengths = lengthList.values().slice().sort();
    const at = (share: number): number => lengths[Math.max(0, Math.ceil(share * lengths.length) - 1)] ?? 0;
    const longest = at(1);
    const width = niceWidth(longest / bars);
    const counts = new Map<number, number>();
    for (const length of lengths) {
      const bar = Math.ceil(length / width);
      counts.set(bar, (counts.get(bar) ?? 0) + 1);
    }
    return {
      examples: keys.values().length,
      tokens: lengths.reduce((sum, length) => sum + length, 0),
      trainedTokens,
      lengths: { shortest: lengths[0] ?? 0, median: at(0.5), p95: at(0.95), longest },
      histogram: Array.from({ length: Math.ceil(longest / width) }, (_, i) => ({
        upTo: (i + 1) * width,
        count: counts.get(i + 1) ?? 0,
      })),
      duplicates: duplicatesIn(keys.values(), lines.values()),
    };
  };
  return { add, report };
}

/** Lines whose key an earlier one has. */
function duplicatesIn(keys: Float64Array, lines: Float64Array): number[] {
  const order = Uint32Array.from(keys, (_, i) => i).sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0) || a - b);
  const later: number[] = [];
  for (let i = 1; i < order.length; i++) {
    const [before, here] = [order[i - 1] as number, order[i] as number]; // within it
    if (keys[before] === keys[here]) later.push(here);
  }
  return later.sort((a, b) => a - b).map((index) => lines[index] as number); // an index of both
}

/** 53 bits of numbers, so that two lists of a million are taken for equal once in ten thousand times. */
export function hashNumber(values: readonly number[], seed = 0): number {
  let [high, low] = [0x9e3779b9 ^ seed, 0x85ebca6b ^ seed];
  for (const value of values) {
    high = Math.imul(high ^ value, 0x01000193) ^ (low >>> 13);
    low = Math.imul(low ^ value ^ (high >>> 16), 0xc2b2ae35);
  }
  high = Math.imul(high ^ (high >>> 15), 0x2c1b3c6d);
  low = Math.imul(low ^ (low >>> 16), 0x297a2d39);
  return (high >>> 11) * 2 ** 32 + ((low ^ (low >>> 15)) >>> 0);
}

/** The least of 1, 2, 5, 10, 20, 50, … that is not below `width`. */
function niceWidth(width: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, width)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= width) ?? 10 * power;
}
