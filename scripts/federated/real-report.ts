import { drawBudgets, type PictureLine } from "./picture.ts";
import { epsilons, methods, type RealLine, untuned } from "./runs.ts";
import { type Source, sources } from "./sources.ts";

/** A method's test measure at its best rate. */
interface Best {
  readonly rate: number;
  readonly mean: number;
  /** Over seeds; NaN of one seed. */
  readonly deviation: number;
  readonly seeds: number;
  /** The rate is the first or the last of those that ran: a better one may lie beyond. */
  readonly atEdge: boolean;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The rate whose loss on the rows that choose is the least, and what the test rows say there; undefined where nothing ran. */
function bestOf(lines: readonly RealLine[], name: string, method: string, epsilon: number): Best | undefined {
  const source = sources[name] as Source; // one of them
  const own = lines.filter(
    (line) => line.data === name && line.method === method && line.epsilon === (epsilon === Infinity ? "inf" : epsilon),
  );
  const rates = [...new Set(own.map(({ rate }) => rate))].flatMap((rate) => {
    const runs = own.filter((line) => line.rate === rate);
    if (runs.some(({ finished }) => !finished)) return [];
    const tested = runs.map(({ testing }) =>
      source.measure ? 100 * (testing[source.measure] ?? Number.NaN) : (testing["loss"] ?? Number.NaN),
    );
    return [{ rate, tested, chosen: mean(runs.map(({ choosing }) => choosing["loss"] ?? Infinity)) }];
  });
  const [first] = rates.toSorted((a, b) => a.chosen - b.chosen);
  if (!first) return undefined;
  const { rate, tested } = first;
  const swept = [...new Set(own.map((line) => line.rate))].sort((a, b) => a - b);
  return {
    ...{ rate, mean: mean(tested), seeds: tested.length },
    deviation: Math.sqrt(
      mean(tested.map((value) => (value - mean(tested)) ** 2)) * (tested.length / (tested.length - 1)),
    ),
    atEdge: rate === swept[0] || rate === swept.at(-1),
  };
}

const budget = (epsilon: number): string => (epsilon === Infinity ? "∞" : String(epsilon));

/** Pairs that the paper, or we, say something of: what is ahead of what. */
const claims: readonly (readonly [first: string, second: string])[] = [
  ["fedsvd", "ffa"],
  ["fedsvd", "ffa-orth"],
  ["fedsvd", "fedavg"],
  ["refresh", "fedsvd"],
];

/** Tables of what the runs came to, as Markdown. */
export function reportReal(lines: readonly RealLine[]): string {
  return Object.entries(sources)
    .flatMap(([name, source]) => {
      if (!lines.some((line) => line.data === name && line.method !== untuned)) return [];
      const { title, measure, clients, clientsPerRound, rounds, localSteps, batchSize } = source;
      const digits = measure ? 1 : 3;
      const shown = (value: number): string => (Number.isFinite(value) ? value.toFixed(digits) : "–");
      const row = (first: string, cells: readonly string[]): string => `| ${[first, ...cells].join(" | ")} |`;
      const before = bestOf(lines, name, untuned, Infinity);
      const at = (method: string, epsilon: number): Best | undefined => bestOf(lines, name, method, epsilon);
      const table = Object.keys(methods).map((method) =>
        row(
          method,
          epsilons.map((epsilon) => {
            const best = at(method, epsilon);
            if (!best) return "–";
            const spread = best.seeds > 1 ? ` ± ${best.deviation.toFixed(digits)}` : "";
            return `${shown(best.mean)}${spread} (${best.rate}${best.atEdge ? "*" : ""})`;
          }),
        ),
      );
      const ahead = claims.map(([first, second]) =>
        row(
          `${first} ahead of ${second}`,
          epsilons.map((epsilon) => {
            const [a, b] = [at(first, epsilon)?.mean ?? Number.NaN, at(second, epsilon)?.mean ?? Number.NaN];
            return shown(measure ? a - b : b - a);
          }),
        ),
      );
      return [
        `**${title}.** ${measure ? "Accuracy in %" : "Loss a token"} on test rows; ${clients} clients, ${clientsPerRound} a round, ${rounds} rounds of ${localSteps} updates, batches of ${batchSize}. Untuned: ${before ? shown(before.mean) : "–"}.`,
        "",
        row(
          "best rate",
          epsilons.map((epsilon) => `ε = ${budget(epsilon)}`),
        ),
        row(
          "---",
          epsilons.map(() => "---"),
        ),
        ...table,
        ...ahead,
        "",
        `![${title}](federated/${pictureName(name)})`,
        "",
      ];
    })
    .join("\n");
}

/** What a data set's picture is called. */
export function pictureName(name: string): string {
  return `real-${name.replaceAll(".", "")}.svg`;
}

/** Pictures of the tables by name. */
export function picturesOfReal(lines: readonly RealLine[]): ReadonlyMap<string, string> {
  const pictures = new Map<string, string>();
  for (const [name, { title, measure }] of Object.entries(sources)) {
    const drawn = Object.keys(methods).flatMap((method): readonly PictureLine[] => {
      const values = epsilons.map((epsilon) => bestOf(lines, name, method, epsilon)?.mean ?? Number.NaN);
      return values.some(Number.isFinite) ? [{ name: method, values }] : [];
    });
    if (drawn.length === 0) continue;
    const what = measure ? "accuracy in %" : "loss a token, less is better";
    pictures.set(pictureName(name), drawBudgets(`${title}: ${what}`, epsilons.map(budget), drawn));
  }
  return pictures;
}
