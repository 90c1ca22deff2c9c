import { appendFile, mkdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { settleFederation, simulateWith } from "../../src/api/federate.ts";
import { type FederationTrainer, openFederationTrainer } from "../../src/api/federation-trainer.ts";
import type { Tuned } from "../../src/federated/index.ts";
import { nodePlatform } from "../../src/runtime/node.ts";
import { allRuns, keyOf, type Measures, methods, type RealLine, type RealRun, untuned } from "./runs.ts";
import { type OpenedSource, openSource, type Source, sizeOf, sources } from "./sources.ts";

/*
 * Federations on real data, method by method, rate by rate and budget by budget: one line a run is appended to a file, and what
 * is in it is not run again. `--shared` is a folder with the public data and models that docs/federated.md names.
 *   npm run experiment:federated-real -- --shared ../shared [--data shakespeare,clinc150] [--methods fedsvd] [--epsilons inf,3]
 *     [--rates 0.5] [--seeds 0] [--minutes 75] [--lines scripts/federated/real.jsonl]
 * `npm run report:federated-real` makes the tables and pictures of the lines.
 */
const { values } = parseArgs({
  options: {
    shared: { type: "string", default: "../shared" },
    data: { type: "string" },
    methods: { type: "string" },
    epsilons: { type: "string" },
    rates: { type: "string" },
    seeds: { type: "string", default: "0" },
    minutes: { type: "string", default: "1e9" },
    lines: { type: "string", default: "scripts/federated/real.jsonl" },
  },
});

const privacy = { dpClip: 1, dpDelta: 1e-4, dpAccountant: "rdp" } as const;

/** Whether a word is in an option's list; everything is where there is none. */
const listed = (list: string | undefined, word: string): boolean =>
  list === undefined || list.split(",").includes(word);

const scratch = join(tmpdir(), `federated-real-${process.pid}`);
await mkdir(dirname(values.lines), { recursive: true });
const text = await readFile(values.lines, "utf8").catch(() => "");
const known = new Set(
  text
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [JSON.parse(line) as RealLine]))
    .map((line) => {
      const source = sources[line.data];
      if (source && line.size === sizeOf(source)) return keyOf(line);
      throw new Error(`${values.lines} has runs of ${line.data} of another size (${line.size}): take them out first`);
    }),
);
const runs = allRuns(values.seeds.split(",").map(Number)).filter(
  (run) =>
    listed(values.data, run.data) &&
    listed(values.methods, run.method) &&
    listed(values.rates, String(run.rate)) &&
    listed(values.epsilons, run.epsilon === Infinity ? "inf" : String(run.epsilon)) &&
    !known.has(keyOf(run)),
);

const device = await nodePlatform.openDevice({ threads: 1 });
const opened = new Map<string, OpenedSource>();
const trainers = new Map<string, FederationTrainer>();

/** A trainer of what a run trains; those that train the same share one. */
async function trainerOf(
  run: Pick<RealRun, "data">,
  { model }: OpenedSource,
  settled: Awaited<ReturnType<typeof settleFederation>>,
): Promise<FederationTrainer> {
  const { strategy, config } = settled.choice;
  const isPrivate = settled.plan.privacy !== undefined;
  const key = [run.data, strategy.trains, strategy.carries(config), isPrivate].join(" ");
  const found = trainers.get(key) ?? (await openFederationTrainer(device, model, settled.run, undefined, isPrivate));
  trainers.set(key, found);
  return found;
}

async function runOne(run: RealRun): Promise<RealLine> {
  const source = sources[run.data] as Source; // runs are of these
  const place = opened.get(run.data) ?? (await openSource(run.data, { shared: values.shared, scratch }));
  opened.set(run.data, place);
  const { model, data, choosing, testing } = place;
  const choice = {
    ...methods[run.method],
    ...{ rounds: source.rounds, localSteps: source.localSteps, clientsPerRound: source.clientsPerRound },
    ...{ batchSize: source.batchSize, targetModules: source.targets, methodOptions: { rank: 8 } },
    ...(run.method === untuned ? {} : { learningRate: run.rate }),
    seed: run.seed,
  };
  const plain = await settleFederation(model, data, choice);
  const settled =
    run.epsilon === Infinity
      ? plain
      : await settleFederation(model, data, { ...choice, ...privacy, dpEpsilon: run.epsilon });
  const trainer = await trainerOf(run, place, settled);
  let last: Tuned | undefined;
  // What is tuned is measured once, at the end: a measure of every round would take as long as the rounds do.
  const watching: FederationTrainer = {
    ...trainer,
    evaluate: async (tuned) => {
      last = tuned;
      return { loss: 0, measures: {} };
    },
  };
  const watched = { clients: data.clients, validation: testing.slice(0, 1) };
  if (run.method === untuned) last = await trainer.initial(run.seed);
  const { ended } =
    run.method === untuned
      ? { ended: "finished" }
      : await simulateWith(watching, settled, watched, { tensorboard: false, resume: false });
  // The same program measures private runs and others: private ones lay examples out otherwise.
  const measuring = await trainerOf(run, place, plain);
  const measure = async (rows: OpenedSource["testing"]): Promise<Measures> => {
    if (last === undefined) return {};
    const { loss, measures } = await measuring.evaluate(last, rows);
    return Object.fromEntries(
      Object.entries({ loss, ...measures }).map(([name, value]) => [
        name,
        Number.isFinite(value) ? Math.round(1e5 * value) / 1e5 : null,
      ]),
    );
  };
  const [chosen, tested] = [await measure(choosing), await measure(testing)];
  return {
    ...run,
    size: sizeOf(source),
    epsilon: run.epsilon === Infinity ? "inf" : run.epsilon,
    finished: ended === "finished" && typeof chosen["loss"] === "number",
    ...{ choosing: chosen, testing: tested },
  };
}

const started = performance.now();
try {
  for (const [i, run] of runs.entries()) {
    const minutes = (performance.now() - started) / 60_000;
    if (minutes > Number(values.minutes)) break;
    const line = await runOne(run);
    await appendFile(values.lines, `${JSON.stringify(line)}\n`);
    console.log(`${minutes.toFixed(1)} min, ${i + 1}/${runs.length}: ${JSON.stringify(line)}`);
  }
} finally {
  for (const trainer of trainers.values()) await trainer.close();
  await device.close();
  await rm(scratch, { recursive: true, force: true });
}
