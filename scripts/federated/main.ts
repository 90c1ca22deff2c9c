import { mkdir, readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { drawBudgets } from "./picture.ts";
import { runToy, type ToyRun, toy, worldOf } from "./toy.ts";
import { linesOf, reportToy } from "./toy-report.ts";

/*
 * FedSVD's algebra on a toy, and what of the paper's claims holds there.
 *   npm run experiment:federated -- [--seeds 4] [--rates 0.1,0.5] [--methods ffa,fedsvd,…] [--json toy.json]
 * A file of results that is there already is gone on with.
 */
const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "4" },
    rates: { type: "string", default: "0.1,0.5" },
    methods: { type: "string" },
    json: { type: "string", default: "docs/federated/toy.json" },
  },
});
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i);
const rates = values.rates.split(",").map(Number);
const epsilons = [Infinity, 6, 3, 1];
const methods: readonly Pick<ToyRun, "strategy" | "options">[] = [
  { strategy: "ffa" },
  { strategy: "ffa-orth" },
  { strategy: "fedsvd" },
  { strategy: "fedsvd-sqrt" },
  { strategy: "fedavg" },
  { strategy: "fedsvd", options: { refreshEvery: 1, refreshKeep: toy.rank / 2 } },
  { strategy: "fedex" },
  { strategy: "flora" },
];

/** What the table calls a method. */
const nameOf = ({ strategy, options }: Pick<ToyRun, "strategy" | "options">): string =>
  options?.["refreshEvery"] ? "refresh" : strategy;
const wanted = values.methods?.split(",");

/** What a run of the file is called. */
const keyOf = ({ strategy, options, epsilon, learningRate, seed }: ToyRun): string =>
  [nameOf({ strategy, ...(options ? { options } : {}) }), String(epsilon), learningRate, seed].join(" ");

const known: Record<string, number | null> = JSON.parse(await readFile(values.json, "utf8").catch(() => "{}"));
const started = performance.now();
await mkdir("docs/federated", { recursive: true });
for (const learningRate of rates) {
  for (const seed of seeds) {
    const world = worldOf(seed);
    for (const epsilon of epsilons) {
      for (const method of methods) {
        if (wanted && !wanted.includes(nameOf(method))) continue;
        const run = { ...method, epsilon, learningRate, seed };
        if (Object.hasOwn(known, keyOf(run))) continue;
        const accuracy = runToy(world, run);
        known[keyOf(run)] = Number.isFinite(accuracy) ? Math.round(1e5 * accuracy) / 1e5 : null;
      }
      await writeFile(values.json, `${JSON.stringify(known, null, 0).replaceAll(",", ",\n")}\n`);
      console.log(
        `seed ${seed}, epsilon ${epsilon}, rate ${learningRate}: ${((performance.now() - started) / 1000).toFixed(0)} s`,
      );
    }
  }
}
const sweep = { seeds, rates, epsilons };
const title = "Toy federation: accuracy in %, each method at its best rate";
const picture = drawBudgets(title, ["∞", "6", "3", "1"], linesOf(known, sweep));
await writeFile(values.json.replace(/\.json$/, ".svg"), picture);
console.log(reportToy(known, sweep));
