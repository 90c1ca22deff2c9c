import { sequencesOf, type TokenizedExample } from "./tokenize.ts";

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
  const sequences = examples.flatMap(sequencesOf);
  const lengths = sequences.map(({ inputIds }) => inputIds.length).sort((a, b) => a - b);
  const at = (share: number): number => lengths[Math.max(0, Math.ceil(share * lengths.length) - 1)] ?? 0;
  const longest = at(1);
  const width = niceWidth(longest / bars);
  const histogram = Array.from({ length: Math.ceil(longest / width) }, (_, i) => ({
    upTo: (i + 1) * width,
    count: lengths.filter((length) => length > i * width && length <= (i + 1) * width).length,
  }));
  const seen = new Set<string>();
  const duplicates: number[] = [];
  for (const example of examples) {
    const key = sequencesOf(example)
      .map(({ inputIds }) => inputIds.join())
      .join(";");
    if (seen.has(key)) duplicates.push(example.line);
    seen.add(key);
  }
  return {
    examples: examples.length,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    trainedTokens: sequences.reduce((sum, { trained }) => sum + trained.reduce((n, mark) => n + mark, 0), 0),
    lengths: { shortest: lengths[0] ?? 0, median: at(0.5), p95: at(0.95), longest },
    histogram,
    duplicates,
  };
}

/** The least of 1, 2, 5, 10, 20, 50, … that is not below `width`. */
function niceWidth(width: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, width)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= width) ?? 10 * power;
}
