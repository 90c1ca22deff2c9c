import { nearest, TuneError } from "../../errors.ts";
import { createRng, type Rng } from "../../linalg/index.ts";

/** How examples are shared out among clients. */
export type Partition =
  | { readonly by: "iid" }
  | { readonly by: "dirichlet"; readonly concentration: number }
  | { readonly by: "column"; readonly column: string }
  | { readonly by: "files" };

/**
 * `iid`, `dirichlet:0.5`, `by:<column>` or `files`.
 * @throws {TuneError} `bad-option`.
 */
export function parsePartition(text: string): Partition {
  const [, word = "", rest] = /^([a-z]+)(?::(.*))?$/s.exec(text) ?? [];
  if (word === "iid" && rest === undefined) return { by: "iid" };
  if (word === "files" && rest === undefined) return { by: "files" };
  if (word === "by" && rest) return { by: "column", column: rest };
  const concentration = Number(rest);
  if (word === "dirichlet" && concentration > 0 && concentration < Number.POSITIVE_INFINITY) {
    return { by: "dirichlet", concentration };
  }
  const near = nearest(word, ["iid", "dirichlet", "by", "files"], 1)[0];
  throw new TuneError("bad-option", `"${text}" says no way to share data out.`, {
    at: "split",
    fix: `use dirichlet:0.5, by:<column>, files, or iid${near && near !== word ? ` (nearest: ${near})` : ""}`,
  });
}

/** Indices of `count` examples, shared out at random in equal parts. */
export function shareEvenly(count: number, clients: number, seed: number): readonly (readonly number[])[] {
  const order = createRng(seed, "share out").shuffle(Array.from({ length: count }, (_, i) => i));
  return Array.from({ length: clients }, (_, k) => order.filter((_, i) => i % clients === k).sort((a, b) => a - b));
}

/**
 * Indices of labelled examples, shared out label by label: the shares of a label are drawn from a Dirichlet distribution, so
 * that a small concentration gives clients that know few labels (Hsu et al. 2019, arXiv 1909.06335). It is drawn anew until
 * every client has an example.
 * @param labels the label of each example.
 * @throws {TuneError} `split-impossible` where that does not come about.
 */
export function shareByDirichlet(
  labels: readonly number[],
  { clients, concentration, seed }: { readonly clients: number; readonly concentration: number; readonly seed: number },
): readonly (readonly number[])[] {
  const byLabel = new Map<number, number[]>();
  for (const [i, label] of labels.entries()) byLabel.set(label, [...(byLabel.get(label) ?? []), i]);
  for (let draw = 0; labels.length >= clients && draw < 200; draw++) {
    const rng = createRng(seed, "dirichlet", draw);
    const parts: number[][] = Array.from({ length: clients }, () => []);
    for (const [, own] of [...byLabel].sort(([a], [b]) => a - b)) {
      const shares = Array.from({ length: clients }, () => gamma(rng, concentration));
      const total = shares.reduce((sum, share) => sum + share, 0);
      const order = rng.shuffle([...own]);
      let [before, sum] = [0, 0];
      for (const [k, share] of shares.entries()) {
        sum += share;
        const end = k === clients - 1 ? own.length : Math.round((own.length * sum) / total);
        for (const i of order.slice(before, end)) parts[k]?.push(i);
        before = end;
      }
    }
    if (parts.every(({ length }) => length > 0)) return parts.map((part) => part.sort((a, b) => a - b));
  }
  throw new TuneError(
    "split-impossible",
    `${labels.length} examples cannot be shared out so that each of ${clients} clients has one.`,
    { at: `dirichlet:${concentration}`, fix: "use fewer clients, a larger concentration, or more data" },
  );
}

/** A draw from the gamma distribution: Marsaglia and Tsang 2000, below 1 by their §6. */
function gamma(rng: Rng, shape: number): number {
  if (shape < 1) return gamma(rng, shape + 1) * Math.max(1 - rng.uniform(), 1e-300) ** (1 / shape);
  const d = shape - 1 / 3;
  for (;;) {
    const x = rng.normal();
    const v = (1 + x / Math.sqrt(9 * d)) ** 3;
    if (v > 0 && Math.log(1 - rng.uniform()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
  }
}
