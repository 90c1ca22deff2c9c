import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { compareFederations, comparisonTable, loadClients, loadModel, type TaskName } from "../../src/index.ts";
import { createRng } from "../../src/linalg/index.ts";
import { nodePlatform } from "../../src/runtime/node.ts";

/*
 * Federations on real data: methods at their best rates, with and without privacy. `--shared` holds the data and models that
 * `data/README.md` of it describes; what is made of them goes to `--output`.
 *   npx tsx scripts/federated/real.ts --data shakespeare --shared ../shared --output runs/shakespeare
 *     [--epsilons inf,3] [--rates 0.5,2] [--seeds 0] [--rounds 10] [--rows 200]
 * Started again, it goes on.
 */
const { values } = parseArgs({
  options: {
    data: { type: "string", default: "shakespeare" },
    shared: { type: "string", default: "../shared" },
    output: { type: "string", default: "runs/federated" },
    epsilons: { type: "string", default: "inf,3" },
    rates: { type: "string", default: "0.5,2" },
    seeds: { type: "string", default: "0" },
    rounds: { type: "string", default: "10" },
    steps: { type: "string", default: "5" },
    rows: { type: "string", default: "200" },
    methods: { type: "string", default: "ffa,ffa-orth,fedsvd,refresh,fedavg" },
  },
});
const numbers = (text: string): readonly number[] =>
  text.split(",").map((word) => (word === "inf" ? Infinity : Number(word)));

/** A data set as rows with a client's name in each, the model for it, and how it is shared out. */
interface Source {
  readonly model: () => Promise<string>;
  readonly task?: TaskName;
  readonly rows: () => Promise<readonly Readonly<Record<string, string>>[]>;
  readonly split: string;
  readonly clients: number;
  readonly maxLength?: number;
  readonly targets?: readonly string[];
}

const at = (path: string): string => join(values.shared, path);

/** RETSim reads characters; a folder for it says only its model type. */
async function retsim(): Promise<string> {
  const folder = join(values.output, "retsim");
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "model.safetensors"), await readFile(at("models/retsim/model.safetensors")));
  await writeFile(join(folder, "config.json"), '{"model_type": "retsim"}');
  return folder;
}

const sources: Readonly<Record<string, Source>> = {
  shakespeare: {
    model: async () => at("models/stories260k"),
    rows: async () => {
      const text = await readFile(at("data/tinyshakespeare/input.txt"), "utf8");
      return text.split(/\n\n+/).flatMap((speech) => {
        const [, speaker, said] = /^([^\n:]+):\n([\s\S]+)$/.exec(speech.trim()) ?? [];
        return speaker && said ? [{ text: said.replace(/\s+/g, " "), client: speaker }] : [];
      });
    },
    ...{ split: "by:client", clients: 12, maxLength: 64, targets: ["q_proj", "v_proj"] },
  },
  clinc150: {
    model: retsim,
    task: "sequence-classification",
    rows: async () => {
      const domains = JSON.parse(await readFile(at("data/clinc150/domains.json"), "utf8")) as Record<string, string[]>;
      const { train } = JSON.parse(await readFile(at("data/clinc150/train_val.json"), "utf8")) as {
        train: [string, string][];
      };
      const domainOf = new Map(
        Object.entries(domains).flatMap(([domain, intents]) => intents.map((intent) => [intent, domain])),
      );
      return train.map(([text, label]) => ({ text, label, client: domainOf.get(label) ?? "none" }));
    },
    ...{ split: "by:client", clients: 10 },
  },
  banking77: {
    model: retsim,
    task: "sequence-classification",
    rows: async () => {
      const lines = (await readFile(at("data/banking77/train.csv"), "utf8")).trim().split("\n").slice(1);
      return lines.flatMap((line) => {
        const [, text, label] = /^"?(.*?)"?,([a-zA-Z_?]+)\r?$/.exec(line) ?? [];
        return text && label ? [{ text: text.replaceAll('""', '"'), label }] : [];
      });
    },
    ...{ split: "dirichlet:0.5", clients: 6 },
  },
};

const source = sources[values.data];
if (!source) throw new Error(`--data is one of ${Object.keys(sources).join(", ")}`);
await mkdir(values.output, { recursive: true });
const rows = await source.rows();
const order = createRng(0, "rows").shuffle(rows.map((_, i) => i));
const counts = new Map<string, number>();
const kept = order.filter((i) => {
  const key = rows[i]?.["client"] ?? rows[i]?.["label"] ?? "";
  counts.set(key, (counts.get(key) ?? 0) + 1);
  return (counts.get(key) ?? 0) <= Number(values.rows);
});
const file = join(values.output, "rows.jsonl");
await writeFile(
  file,
  kept
    .sort((a, b) => a - b)
    .map((i) => `${JSON.stringify(rows[i])}\n`)
    .join(""),
);
const model = await loadModel(await source.model(), {
  platform: nodePlatform,
  ...(source.task ? { task: source.task, labelsFrom: file } : {}),
});
const data = await loadClients(model, [file], {
  ...{ split: source.split, clients: source.clients, validation: 300 },
  ...(source.maxLength ? { maxLength: source.maxLength } : {}),
});
console.log(data.clients.map(({ name, train }) => `${name} ${train.length}`).join(", "));
const refresh = { strategy: "fedsvd", name: "refresh", strategyOptions: { refreshEvery: 1, refreshKeep: 4 } };
const result = await compareFederations(model, data, {
  strategies: values.methods.split(",").map((name) => (name === "refresh" ? refresh : name)),
  learningRates: numbers(values.rates),
  epsilons: numbers(values.epsilons),
  seeds: numbers(values.seeds),
  ...{
    rounds: Number(values.rounds),
    localSteps: Number(values.steps),
    batchSize: 8,
    clientsPerRound: Math.ceil(source.clients / 2),
  },
  ...{ dpClip: 1, dpDelta: 1e-3, dpAccountant: "rdp", methodOptions: { rank: 8 } },
  ...(source.targets ? { targetModules: source.targets } : {}),
  output: join(values.output, "compared"),
  resume: true,
  onEvent: (event) => {
    if (event.kind === "done") {
      const { name, learningRate, seed } = event.run;
      console.log(
        `${event.index + 1}/${event.total} ${name} ${learningRate} ${seed}: ${JSON.stringify(event.outcome.measures)}`,
      );
    }
  },
});
console.log(comparisonTable(result));
