/** Share of numbers that are as expected. */
export function accuracy(given: readonly number[], expected: readonly number[]): number {
  return given.filter((value, i) => value === expected[i]).length / Math.max(1, expected.length);
}

/** F1 of one label: 2·TP / (2·TP + FP + FN); 0 where it neither occurs nor is given. */
export function f1(given: readonly number[], expected: readonly number[], label: number): number {
  let [right, wrong] = [0, 0];
  for (const [i, value] of expected.entries()) {
    if (value === label && given[i] === label) right += 1;
    else if (value === label || given[i] === label) wrong += 1;
  }
  return right === 0 ? 0 : (2 * right) / (2 * right + wrong);
}

/**
 * Matthews' correlation of labels, for any number of them: (c·s − Σ p·t) / √((s² − Σ p²)(s² − Σ t²)). Gorodkin 2004,
 * eq. (8). c: right ones; s: all; p and t: how often a label is given and occurs. 0 where one side never varies.
 */
export function matthews(given: readonly number[], expected: readonly number[]): number {
  const counts = new Map<number, { given: number; expected: number }>();
  const count = (label: number, side: "given" | "expected"): void => {
    const own = counts.get(label) ?? { given: 0, expected: 0 };
    own[side] += 1;
    counts.set(label, own);
  };
  for (const label of given) count(label, "given");
  for (const label of expected) count(label, "expected");
  const all = expected.length;
  const right = given.filter((label, i) => label === expected[i]).length;
  const sum = (of: (own: { given: number; expected: number }) => number): number =>
    [...counts.values()].reduce((total, own) => total + of(own), 0);
  const spread = (all ** 2 - sum((own) => own.given ** 2)) * (all ** 2 - sum((own) => own.expected ** 2));
  return spread === 0 ? 0 : (right * all - sum((own) => own.given * own.expected)) / Math.sqrt(spread);
}

/** Pearson's correlation; 0 where one side never varies. */
export function pearson(given: readonly number[], expected: readonly number[]): number {
  const [a, b] = [centred(given), centred(expected)];
  const product = (x: readonly number[], y: readonly number[]): number =>
    x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0);
  const spread = Math.sqrt(product(a, a) * product(b, b));
  return spread === 0 ? 0 : product(a, b) / spread;
}

/** Spearman's correlation: Pearson's of ranks, where equal values share their mean rank. */
export function spearman(given: readonly number[], expected: readonly number[]): number {
  return pearson(ranks(given), ranks(expected));
}

/** Mean of squared differences. */
export function meanSquaredError(given: readonly number[], expected: readonly number[]): number {
  return given.reduce((sum, value, i) => sum + (value - (expected[i] ?? 0)) ** 2, 0) / Math.max(1, given.length);
}

/** A name in a sequence of tags: from word `start` up to `end`, which is not in it. */
export interface Span {
  readonly kind: string;
  readonly start: number;
  readonly end: number;
}

/**
 * The names in a sequence of tags. `B-` begins one and `I-` goes on with it, or begins one after another kind, as in
 * CoNLL's own evaluation; tags without either are names of one kind while they repeat; `O` is none.
 */
export function spansOf(tags: readonly string[]): readonly Span[] {
  const spans: Span[] = [];
  for (const [i, tag] of tags.entries()) {
    if (tag === "O") continue;
    const [, prefix, kind = tag] = /^([BI])-(.*)$/.exec(tag) ?? [];
    const last = spans.at(-1);
    if (prefix !== "B" && last?.kind === kind && last.end === i) spans[spans.length - 1] = { ...last, end: i + 1 };
    else spans.push({ kind, start: i, end: i + 1 });
  }
  return spans;
}

/** F1 over names that are found whole, with their kind, in all sequences. */
export function spanF1(
  sequences: readonly { readonly given: readonly Span[]; readonly expected: readonly Span[] }[],
): number {
  let [right, all] = [0, 0];
  for (const { given, expected } of sequences) {
    const known = new Set(expected.map((span) => JSON.stringify([span.kind, span.start, span.end])));
    right += given.filter((span) => known.has(JSON.stringify([span.kind, span.start, span.end]))).length;
    all += given.length + expected.length;
  }
  return all === 0 ? 0 : (2 * right) / all;
}

function centred(values: readonly number[]): readonly number[] {
  const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  return values.map((value) => value - mean);
}

function ranks(values: readonly number[]): readonly number[] {
  const order = values.map((_, i) => i).sort((a, b) => (values[a] ?? 0) - (values[b] ?? 0));
  const result = new Array<number>(values.length).fill(0);
  for (let start = 0; start < order.length; ) {
    let end = start;
    while (end < order.length && values[order[end] ?? 0] === values[order[start] ?? 0]) end += 1;
    for (let i = start; i < end; i++) result[order[i] ?? 0] = (start + end - 1) / 2;
    start = end;
  }
  return result;
}
