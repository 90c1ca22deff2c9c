import type { PictureLine } from "./picture.ts";

/** What is in the table, in its order. */
const names = ["ffa", "ffa-orth", "fedsvd", "fedsvd-sqrt", "fedavg", "refresh", "fedex", "flora"] as const;

interface Sweep {
  readonly seeds: readonly number[];
  readonly rates: readonly number[];
  readonly epsilons: readonly number[];
}

/** Accuracies at each method's best rate, for a picture. */
export function linesOf(
  known: Readonly<Record<string, number | null>>,
  { seeds, rates, epsilons }: Sweep,
): readonly PictureLine[] {
  const mean = (name: string, epsilon: number, rate: number): number =>
    seeds.reduce((sum, seed) => sum + 100 * (known[`${name} ${epsilon} ${rate} ${seed}`] ?? Number.NaN), 0) /
    seeds.length;
  return names.flatMap((name) => {
    const values = epsilons.map((epsilon) => {
      const means = rates.map((rate) => mean(name, epsilon, rate)).filter(Number.isFinite);
      return means.length === 0 ? Number.NaN : Math.max(...means);
    });
    return values.some(Number.isFinite) ? [{ name, values }] : [];
  });
}

/** Tables of accuracies in %, and whether what must hold does, as Markdown. */
export function reportToy(known: Readonly<Record<string, number | null>>, { seeds, rates, epsilons }: Sweep): string {
  const all = (name: string, epsilon: number, rate: number): readonly number[] =>
    seeds.map((seed) => 100 * (known[`${name} ${epsilon} ${rate} ${seed}`] ?? Number.NaN));
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const at = (name: string, epsilon: number, rate: number): number => mean(all(name, epsilon, rate));
  const spread = (values: readonly number[]): number => {
    const middle = mean(values);
    return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / Math.max(1, values.length - 1));
  };
  const best = (
    name: string,
    epsilon: number,
  ): { readonly rate: number; readonly mean: number; readonly deviation: number } => {
    const [first] = rates
      .map((rate) => ({ rate, mean: at(name, epsilon, rate), deviation: spread(all(name, epsilon, rate)) }))
      .filter((one) => Number.isFinite(one.mean))
      .sort((a, b) => b.mean - a.mean);
    return first ?? { rate: Number.NaN, mean: Number.NaN, deviation: Number.NaN };
  };
  const says = (epsilon: number): string => (epsilon === Infinity ? "∞" : String(epsilon));
  const gaps = epsilons.flatMap((epsilon) =>
    rates.map((rate) => Math.abs(at("fedsvd", epsilon, rate) - at("ffa-orth", epsilon, rate))),
  );
  const lead = epsilons.map((epsilon) => at("fedsvd", epsilon, 0.1) - at("ffa", epsilon, 0.1));
  const loss = (name: string): number => at(name, Infinity, 0.5) - at(name, 1, 0.5);
  const apart = epsilons.map((epsilon) => best("fedsvd", epsilon).mean - best("ffa", epsilon).mean);
  const list = (values: readonly number[]): string => values.map(shown).join(" / ");
  const shown = (value: number): string => (Number.isFinite(value) ? value.toFixed(1) : "–");
  const holds = (ok: boolean, ...of: readonly number[]): string =>
    of.every(Number.isFinite) ? (ok ? "holds" : "**does not hold**") : "not run";
  const run = names.filter((name) => epsilons.some((epsilon) => Number.isFinite(best(name, epsilon).mean)));
  const table = (head: string, cell: (name: string, epsilon: number) => string): readonly string[] => [
    `| ${head} | ${epsilons.map((epsilon) => `ε = ${says(epsilon)}`).join(" | ")} |`,
    `| --- | ${epsilons.map(() => "---").join(" | ")} |`,
    ...run.map((name) => `| ${name} | ${epsilons.map((epsilon) => cell(name, epsilon)).join(" | ")} |`),
  ];
  return [
    ...table("best rate", (name, epsilon) => {
      const { mean: middle, deviation, rate } = best(name, epsilon);
      return Number.isFinite(middle) ? `${middle.toFixed(1)} ± ${deviation.toFixed(1)} (${rate})` : "–";
    }),
    "",
    ...rates.flatMap((rate) => [...table(`rate ${rate}`, (name, epsilon) => shown(at(name, epsilon, rate))), ""]),
    `- (a) FedSVD − FFA at rate 0.1 is at least 2 points at ε = ∞, 6, 3: ${list(lead)}; ${holds(
      lead.slice(0, 3).every((value) => value >= 2),
      ...lead,
    )}.`,
    `- (b) FedSVD and FFA-orth are within 1.5 points everywhere: ${Math.max(...gaps).toFixed(2)} at most; ${holds(gaps.every((gap) => !(gap > 1.5)))}.`,
    `- (c) At rate 0.5, from ε = ∞ to 1, FedAvg loses at least 1.5 times what FFA does, and ends below it: ${list([loss("fedavg"), loss("ffa")])} points, ${list([at("fedavg", 1, 0.5), at("ffa", 1, 0.5)])} %; ${holds(loss("fedavg") >= 1.5 * loss("ffa") && at("fedavg", 1, 0.5) < at("ffa", 1, 0.5), loss("fedavg"), loss("ffa"))}.`,
    `- (d) Each at its best rate, FedSVD and FFA are within 3 points: ${list(apart)}; ${holds(
      apart.every((value) => Math.abs(value) < 3),
      ...apart,
    )}.`,
    "",
  ].join("\n");
}
