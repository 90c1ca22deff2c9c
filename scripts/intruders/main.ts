/**
 * The experiments on intruder dimensions that docs/diagnosis.md tells of: a small language model that was trained on stories,
 * tuned on plays in many ways.
 *
 *   tsx scripts/intruders/main.ts <model folder> <stories.txt> <plays.txt> <other.txt> <work folder> [docs folder]
 *
 * Results of a run are kept in the work folder; started again, it goes on where it was.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  correctionOf,
  deviceProducts,
  diagnosisDefaults,
  drawCounts,
  drawSimilarities,
  drawSpectra,
  examine,
  folderCache,
  matrixPairs,
  mendedModel,
  remarkable,
} from "../../src/diagnose/index.ts";
import { mergeAdapter } from "../../src/export/index.ts";
import {
  type Adapter,
  type Device,
  type DiagnosisReport,
  diagnose,
  evaluate,
  exportModel,
  type LoadedData,
  type LoadedModel,
  loadData,
  loadModel,
  methods,
  tune,
} from "../../src/index.ts";
import { nodePlatform, openNodeDevice } from "../../src/runtime/node.ts";
import { drawScatter } from "./pictures.ts";
import { fixedAlpha, mended, type Run, ranks, runs, sequential, shared } from "./plan.ts";
import { spearman } from "./statistics.ts";

const [modelFolder, storiesFile, playsFile, otherFile, work, docs] = process.argv.slice(2);
if (!modelFolder || !storiesFile || !playsFile || !otherFile || !work) {
  throw new Error("usage: main.ts <model folder> <stories.txt> <plays.txt> <other.txt> <work folder> [docs folder]");
}

/** What one run came to. */
interface Result {
  readonly name: string;
  readonly family: Run["family"];
  readonly baseLoss: number;
  readonly taskLoss: number;
  readonly intruders: number;
  readonly matrices: number;
  readonly effectiveRank: number;
}

/** What one intervention came to. */
interface Intervention {
  readonly run: string;
  readonly what: string;
  readonly lambda: number;
  readonly scaled: number;
  readonly baseLoss: number;
  readonly taskLoss: number;
}

await mkdir(work, { recursive: true });
const device: Device = await openNodeDevice();
const base = await loadModel(modelFolder, { platform: nodePlatform });
const data = await prepare();
const cacheFolder = join(work, "spectra");

/** Texts cut for each use: tuning, the held-out task, what the base was good at, and a second task. */
async function prepare(): Promise<Record<"train" | "task" | "stories" | "second" | "secondTask", LoadedData>> {
  const cut = async (name: string, text: string): Promise<LoadedData> => {
    const path = join(work as string, `${name}.txt`); // checked above
    await writeFile(path, text);
    return loadData(base, path, { maxLength: 64 });
  };
  const [stories, plays, other] = await Promise.all(
    [storiesFile, playsFile, otherFile].map((path) => readFile(path as string, "utf8")), // checked above
  );
  return {
    train: await cut("train", plays?.slice(0, 120_000) ?? ""),
    task: await cut("task", plays?.slice(-12_000) ?? ""),
    stories: await cut("stories", stories?.slice(-12_000) ?? ""),
    second: await cut("second", other?.slice(0, 120_000) ?? ""),
    secondTask: await cut("second-task", other?.slice(-12_000) ?? ""),
  };
}

/** Compute once: the result is kept in the work folder. */
async function once<T>(name: string, compute: () => Promise<T>): Promise<T> {
  const path = join(work as string, `${name.replace(/[^\w=.-]+/g, "_")}.json`); // checked above
  const kept = await readFile(path, "utf8").catch(() => undefined);
  if (kept !== undefined) return JSON.parse(kept) as T; // written below
  const value = await compute();
  await writeFile(path, JSON.stringify(value));
  return value;
}

async function losses(model: LoadedModel, adapter?: Adapter): Promise<{ baseLoss: number; taskLoss: number }> {
  const use = adapter ? { adapter, device } : { device };
  const [stories, task] = [await evaluate(model, data.stories.train, use), await evaluate(model, data.task.train, use)];
  return { baseLoss: stories.loss, taskLoss: task.loss };
}

/** The tuned adapter of a run, from the work folder or computed. */
async function tuned(run: Run, model: LoadedModel = base, on: LoadedData = data.train): Promise<Adapter> {
  process.stderr.write(`tuning: ${run.name}\n`);
  const { adapter } = await tune(model, on, { ...shared, ...run.choice, device });
  return adapter;
}

async function perform(run: Run): Promise<{ readonly result: Result; readonly report: DiagnosisReport }> {
  return once(`run ${run.name}`, async () => {
    const adapter = await tuned(run);
    const report = await diagnose(base, { adapter, device, cacheFolder, adapterName: run.name });
    const ranksOf = report.matrices.flatMap(({ update }) => update.effectiveRank ?? []);
    const effectiveRank = ranksOf.reduce((sum, value) => sum + value, 0) / ranksOf.length;
    const { name, family } = run;
    const result = {
      name,
      family,
      ...(await losses(base, adapter)),
      intruders: report.total,
      matrices: report.matrices.length,
      effectiveRank,
    };
    return { result, report };
  });
}

/** I4: scale the top intruder, all of them, or the neighbour of the top one that is none. */
async function intervene(run: Run): Promise<readonly Intervention[]> {
  return once(`intervention ${run.name}`, async () => {
    const adapter = await tuned(run);
    const merged = mergeAdapter(device, base.pretrained, adapter);
    const pairs = matrixPairs({ base: base.pretrained, tuned: merged.model, adapter });
    const products = deviceProducts(device);
    const tools = { products, cache: folderCache(nodePlatform.storage, cacheFolder) };
    const examined = [];
    for (const pair of pairs) examined.push({ pair, found: await examine(pair, diagnosisDefaults, tools) });
    const choices: Record<string, (intruders: readonly number[], count: number) => readonly number[]> = {
      top: (intruders) => intruders.slice(0, 1),
      all: (intruders) => intruders,
      // The nearest vector in the spectrum that is no intruder, where the top intruder has one.
      neighbour: (intruders, count) => {
        const [top] = intruders;
        if (top === undefined) return [];
        const others = Array.from({ length: count }, (_, j) => j).filter((j) => !intruders.includes(j));
        return others.sort((a, b) => Math.abs(a - top) - Math.abs(b - top)).slice(0, 1);
      },
    };
    const results: Intervention[] = [];
    const grid = { top: [1.5, 0.9, 0.75, 0.7, 0.5, 0], all: [0.9, 0.7], neighbour: [0.9, 0.7, 0.5] };
    for (const [what, lambdas] of Object.entries(grid)) {
      for (const lambda of lambdas) {
        const corrections = examined.flatMap(({ pair, found }) => {
          const { intruders, sigma } = found.diagnosis;
          const chosen = choices[what]?.(intruders, sigma.length) ?? [];
          return correctionOf(pair, found, chosen, { lambda, side: "left", outFeatures: pair.rows }) ?? [];
        });
        const model = { ...base, pretrained: mendedModel(merged.model, corrections) };
        const scaled = corrections.reduce((sum, { left }) => sum + left.cols, 0);
        results.push({ run: run.name, what, lambda, scaled, ...(await losses(model)) });
        process.stderr.write(`${JSON.stringify(results.at(-1))}\n`);
      }
    }
    await products.close();
    await merged.close();
    return results;
  });
}

/** I6: tune on plays, merge, tune on another text; count against the first base each time. */
async function inOrder(run: Run): Promise<
  readonly {
    readonly task: number;
    readonly intruders: number;
    readonly baseLoss: number;
    readonly firstTask: number;
    readonly secondTask: number;
  }[]
> {
  return once(`order ${run.name}`, async () => {
    const results = [];
    let model = base;
    for (const [i, on] of [data.train, data.second].entries()) {
      const adapter = await tuned(run, model, on);
      const folder = join(work as string, "merged"); // checked above
      await exportModel(model, "safetensors", folder, { adapter, device });
      const merged = await loadModel(folder, { platform: nodePlatform });
      const { total } = await diagnose(base, { tuned: merged, device, cacheFolder });
      const { baseLoss, taskLoss } = await losses(merged);
      const second = await evaluate(merged, data.secondTask.train, { device });
      results.push({ task: i + 1, intruders: total, baseLoss, firstTask: taskLoss, secondTask: second.loss });
      // The next task starts from these weights, which the next merge replaces.
      const kept = join(work as string, `merged-${i + 1}`); // checked above
      await exportModel(merged, "safetensors", kept, { device });
      model = await loadModel(kept, { platform: nodePlatform });
    }
    return results;
  });
}

try {
  const start = await once("base", () => losses(base));
  const available = runs.filter(({ choice }) => methods.has(choice.method ?? ""));
  const done = [];
  for (const run of available) done.push(await perform(run));
  const results = done.map(({ result }) => result);
  const rows = results.map(
    ({ name, intruders, baseLoss, taskLoss, effectiveRank }) =>
      `| ${name} | ${intruders} | ${(baseLoss - start.baseLoss).toFixed(3)} | ${taskLoss.toFixed(3)} | ${effectiveRank.toFixed(1)} |`,
  );
  const counts = results.map(({ intruders }) => intruders);
  const forgetting = results.map(({ baseLoss }) => baseLoss - start.baseLoss);
  const taskLosses = results.map(({ taskLoss }) => taskLoss);
  const lines = [
    `base: ${start.baseLoss.toFixed(4)} on stories, ${start.taskLoss.toFixed(4)} on plays`,
    "",
    "| run | intruders | forgetting | task loss | effective rank |",
    "| --- | ---: | ---: | ---: | ---: |",
    ...rows,
    "",
    `Spearman of count and forgetting over ${results.length} runs: ${spearman(counts, forgetting).toFixed(2)}; of count and task loss: ${spearman(counts, taskLosses).toFixed(2)}`,
    `I2, α·η constant: ${ranks.map(({ name }) => `${name}: ${results.find((result) => result.name === name)?.intruders}`).join("; ")}`,
    `I5, rank 64: α=8: ${results.find(({ name }) => name === fixedAlpha.name)?.intruders}, α=128: ${results.find(({ name }) => name === ranks.at(-1)?.name)?.intruders}`,
    "",
  ];
  for (const run of mended) {
    const own = await perform(run);
    const before = own.result.baseLoss - start.baseLoss;
    lines.push(`| ${run.name} | lambda | scaled | forgetting | task loss |`, "| --- | ---: | ---: | ---: | ---: |");
    for (const { what, lambda, scaled, baseLoss, taskLoss } of await intervene(run)) {
      const change = 100 * ((baseLoss - start.baseLoss) / before - 1);
      const sign = (value: number): string => (value >= 0 ? "+" : "");
      lines.push(
        `| ${what} | ${lambda} | ${scaled} | ${sign(change)}${change.toFixed(1)} % | ${sign(taskLoss - own.result.taskLoss)}${(taskLoss - own.result.taskLoss).toFixed(3)} |`,
      );
    }
    lines.push("");
  }
  for (const run of sequential) {
    for (const { task, intruders, baseLoss, firstTask, secondTask } of await inOrder(run)) {
      lines.push(
        `${run.name}, after task ${task}: ${intruders} intruders, forgetting ${(baseLoss - start.baseLoss).toFixed(3)}, first task ${firstTask.toFixed(3)}, second ${secondTask.toFixed(3)}`,
      );
    }
  }
  const text = `${lines.join("\n")}\n`;
  await writeFile(join(work, "results.md"), text);
  process.stdout.write(text);
  if (docs) {
    await mkdir(docs, { recursive: true });
    const strongest = [...done]
      .filter(({ result }) => result.family === "LoRA")
      .sort((a, b) => b.result.intruders - a.result.intruders)[0];
    const points = results.map(({ name, family, intruders }, i) => ({
      name,
      family,
      x: intruders,
      y: forgetting[i] ?? 0,
    }));
    await writeFile(
      join(docs, "forgetting.svg"),
      drawScatter("Forgetting over intruders, one point a run", "intruders", "forgetting in nats", points),
    );
    for (const name of [ranks[1]?.name, mended[1]?.name]) {
      const report = done.find(({ result }) => result.name === name)?.report;
      if (report && name === mended[1]?.name) {
        await writeFile(join(docs, "counts.svg"), drawCounts(report));
        await writeFile(
          join(docs, "similarity.svg"),
          drawSimilarities(remarkable(report.matrices, 4), `|U0ᵀU|: ${name}`),
        );
        await writeFile(
          join(docs, "spectra.svg"),
          drawSpectra(remarkable(report.matrices, 4), `Singular values: ${name}`),
        );
      }
    }
    const whole = done.find(({ result }) => result.family === "full")?.report;
    if (whole && strongest) {
      const names = new Set(remarkable(strongest.report.matrices, 4).map(({ name }) => name));
      await writeFile(
        join(docs, "similarity-full.svg"),
        drawSimilarities(
          whole.matrices.filter(({ name }) => names.has(name)),
          "|U0ᵀU|: full tuning",
        ),
      );
    }
  }
} finally {
  await device.close();
}
