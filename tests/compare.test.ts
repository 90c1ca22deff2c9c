import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { spreadOf, tabulate } from "../src/api/comparison-table.ts";
import { drawComparison } from "../src/cli/compare-picture.ts";
import {
  type ComparedRun,
  type CompareEvent,
  type CompareOptions,
  type ComparisonResult,
  compare,
  type LoadedData,
  type LoadedModel,
  methods,
  type RunOutcome,
} from "../src/index.ts";
import type { TextTokenizer } from "../src/io/tokenizer.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { jsonLines, scion } from "./helpers/cli.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

let folder: string;
let model: LoadedModel;
let data: LoadedData;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-compare-"));
  const platform = { ...nodePlatform, openDevice: () => openNodeDevice({ worker: false, threads: 1 }) };
  const tokenizer = { padId: 0, eosId: 0 } as TextTokenizer; // of which only the padding is asked for
  model = {
    ...{ pretrained: await randomModel(), platform, source: "memory", folder: "memory" },
    tokenizer: async () => tokenizer,
  };
  data = {
    ...{ train: randomExamples(8, 64, 1), validation: randomExamples(4, 64, 2) },
    ...{ kind: "sequence", format: "text" },
  } as unknown as LoadedData; // as far as comparing looks at it
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const seen = (events: readonly CompareEvent[]): readonly string[] =>
  events.flatMap((event) =>
    event.kind === "done"
      ? [`${event.run.name} ${event.run.learningRate} ${event.run.seed}${event.readBack ? " read back" : ""}`]
      : [],
  );

const options = (name: string, more: Partial<CompareOptions> = {}): CompareOptions => ({
  methods: [{ method: "lora" }, { method: "paca", learningRates: [0.02, 0.01] }],
  ...{ learningRates: [1e-3, 1e-2], seeds: [0, 1], rank: 2, scale: 4, batchSize: 4, maxSteps: 3 },
  targetModules: ["q_proj", "v_proj"],
  output: join(folder, name),
  ...more,
});

/** What the runs of a seed came to, but for what depends on how fast the machine was. */
async function outcomes(name: string, seed: number): Promise<readonly unknown[]> {
  const { runs } = JSON.parse(await readFile(join(folder, name, "comparison.json"), "utf8"));
  return (runs as readonly (ComparedRun & { readonly outcome: RunOutcome })[])
    .filter((run) => run.seed === seed)
    .map(({ outcome, ...run }) => ({ ...run, outcome: { ...outcome, stepMs: 0, peakBytes: 0 } }));
}

describe("a comparison", () => {
  let whole: ComparisonResult;

  it("makes every run, and chooses each method's rate by the mean validation loss", async () => {
    const events: CompareEvent[] = [];
    whole = await compare(
      model,
      data,
      options("whole", { test: randomExamples(4, 64, 3), onEvent: (e) => events.push(e) }),
    );
    expect(seen(events)).toEqual([
      ...["lora 0.001 0", "paca 0.01 0", "lora 0.01 0", "paca 0.02 0"],
      ...["lora 0.001 1", "paca 0.01 1", "lora 0.01 1", "paca 0.02 1"],
    ]);
    expect([whole.done, whole.total, whole.tested, whole.objective]).toEqual([8, 8, true, "causal-lm"]);
    const [lora, paca] = whole.rows;
    // Queries and values of two layers: 32→32 and 32→16.
    expect(lora?.trainedParameters).toBe(2 * 2 * (64 + 48));
    expect(paca?.trainedParameters).toBe(2 * 2 * (32 + 16));
    expect([lora?.options["alpha"], paca?.options["alpha"]]).toEqual([8, 8]); // 4 × rank 2
    for (const { rates, best, storedBytes = 0, trainedParameters, savedBytes, plannedPeakBytes } of whole.rows) {
      const means = rates.map(({ validationLoss }) => validationLoss?.mean ?? Number.NaN);
      expect(best?.validationLoss.mean).toBe(Math.min(...means));
      expect(best?.learningRate).toBe(rates[means.indexOf(Math.min(...means))]?.learningRate);
      expect(best?.measures["loss"]?.deviation).toBeGreaterThan(0);
      expect(best?.measures["loss"]?.mean).not.toBe(best?.validationLoss.mean);
      expect(storedBytes).toBeGreaterThan(4 * trainedParameters);
      expect(Math.min(savedBytes, plannedPeakBytes)).toBeGreaterThan(0);
    }
    const kept = JSON.parse(await readFile(join(folder, "whole/comparison.json"), "utf8"));
    expect([kept.rows, kept.runs.length]).toEqual([JSON.parse(JSON.stringify(whole.rows)), 8]);
    await expect(stat(join(folder, "whole/lora/1e-3-seed-0/checkpoint.safetensors"))).rejects.toThrow();
    await stat(join(folder, "whole/paca/2e-2-seed-1/adapter/adapter_config.json"));
  });

  it("is drawn with a panel a number, and every rate", () => {
    const picture = drawComparison("a < b", whole);
    for (const text of ["a &lt; b", "trained parameters", "test loss", "1e-3", "2e-2"]) expect(picture).toContain(text);
    expect(picture).not.toMatch(/NaN|undefined|Infinity/);
  });

  it("goes on where it was cut off: finished runs are read back, a half one from its checkpoint", async () => {
    const stop = new AbortController();
    const more = { test: randomExamples(4, 64, 3), seeds: [0] };
    const cut = await compare(model, data, {
      ...options("cut", { ...more, signal: stop.signal }),
      onEvent: (event) => {
        const third = event.kind === "training" && event.index === 2 && event.event.kind === "step";
        if (third && event.event.step === 2) stop.abort();
      },
    });
    expect([cut.done, cut.total]).toEqual([2, 4]);
    await stat(join(folder, "cut/lora/1e-2-seed-0/checkpoint.safetensors"));
    await expect(compare(model, data, options("cut", more))).rejects.toMatchObject({ code: "run-exists" });

    const events: CompareEvent[] = [];
    const onEvent = (event: CompareEvent): void => void events.push(event);
    const resumed = await compare(model, data, options("cut", { ...more, resume: true, onEvent }));
    expect(seen(events).slice(0, 3)).toEqual(["lora 0.001 0 read back", "paca 0.01 0 read back", "lora 0.01 0"]);
    const steps = events.flatMap((event) =>
      event.kind === "training" && event.index === 2 && event.event.kind === "step" ? [event.event.step] : [],
    );
    expect(steps).toEqual([3]);
    expect(resumed.done).toBe(4);
    expect(await outcomes("cut", 0)).toEqual(await outcomes("whole", 0));

    const again = compare(model, data, options("cut", { ...more, resume: true, batchSize: 2 }));
    await expect(again).rejects.toMatchObject({ code: "resume-mismatch" });
    await expect(again).rejects.toThrow(/batchSize: 4 then, 2 now/);
    const elsewhere = compare(model, data, options("cut", { ...more, test: more.test.slice(1), resume: true }));
    await expect(elsewhere).rejects.toThrow(/testData/);
  });

  it("keeps runs that diverge, and never chooses their rate", async () => {
    const { rows } = await compare(model, data, {
      ...{ batchSize: 4, maxSteps: 3, output: join(folder, "diverged") },
      ...{ methods: [{ method: "full" }], learningRates: [1e-3, 1e30], seeds: [0] },
      optimizer: "sgd",
      maxGradNorm: 0,
    });
    expect(rows[0]?.rates.map(({ diverged }) => diverged)).toEqual([0, 1]);
    expect(rows[0]?.best?.learningRate).toBe(1e-3);
  });

  it("measures forgetting and intruders where there are texts, intruders of what is part of a weight alone", async () => {
    const { targetModules: _beforeSublayers, ...everywhere } = options("forgetting", { seeds: [0] });
    const { rows } = await compare(model, data, {
      ...everywhere,
      ...{ learningRates: [1e-2], baseText: randomExamples(2, 64, 4) },
      methods: [{ method: "adalora" }, { method: "compacter", methodOptions: { reduction: 2 } }],
    });
    expect(rows.map(({ best }) => Object.keys(best?.measures ?? {}))).toEqual([
      ["loss", "forgetting", "intruders"],
      ["loss", "forgetting"],
    ]);
    expect(rows[0]?.options).toMatchObject({ initialRank: 3, targetRank: 2, alpha: 12 });
  });

  it("says everything that is wrong with what it is asked for", async () => {
    const wrong = compare(
      model,
      { ...data, validation: [] },
      {
        ...options("wrong", { seeds: [1, 1], learningRates: [-1] }),
        methods: [{ method: "lorra" }, { method: "lora" }, { method: "lora", name: "../x" }, { method: "lora" }],
      },
    );
    await expect(wrong).rejects.toMatchObject({ code: "bad-option" });
    for (const part of [
      /no method "lorra" \(nearest: lora\)/,
      /"\.\.\/x" cannot name a folder/,
      /"lora" is there twice/,
      /seeds are 1, 1/,
      /learning rates of lora are -1/,
      /no rows are held back/,
    ])
      await expect(wrong).rejects.toThrow(part);
  });
});

it("is a command that writes a table and a picture", async () => {
  const rows = ["one and one is two", "two and one is three", "three and one is four", "four and one is five"];
  const file = join(folder, "rows.jsonl");
  await writeFile(file, rows.map((text) => JSON.stringify({ text })).join("\n"));
  const at = join(folder, "command");
  const shared = ["compare", "-m", "assets/quickstart/model", "-d", file, "--validation", "1", "--output", at];
  const flags = [
    ...shared,
    ..."--methods lora,paca --rates 1e-3 --seeds 0 --max-steps 1 --rank 4 --alpha 4 --json".split(" "),
  ];
  const { code, stdout, stderr } = await scion(flags);
  expect(code, stderr).toBe(0);
  const end = jsonLines(stdout).at(-1) as unknown as ComparisonResult; // what the last line of the command holds
  expect(end.rows.map(({ name, options: { rank, alpha } }) => [name, rank, alpha])).toEqual([
    ["lora", 4, 4],
    ["paca", 4, 4],
  ]);
  const table = await readFile(join(at, "comparison.md"), "utf8");
  expect(table).toMatch(/^\| lora \| .* \| 1e-3 \| \d\.\d{4} \|$/m);
  expect(table).toContain("They are of the rows that the rate was chosen on.");
  expect(await readFile(join(at, "comparison.svg"), "utf8")).toContain("validation loss");
});

describe("its table", () => {
  it("gives means and the sample's standard deviation", () => {
    expect(spreadOf([3])).toEqual({ mean: 3 });
    expect(spreadOf([1, 2, 3, 6])).toEqual({ mean: 3, deviation: Math.sqrt(14 / 3) });
  });

  it("holds a rate against those with as many seeds while some are missing", () => {
    const described = {
      name: "a",
      method: "lora",
      options: {},
      trainedParameters: 1,
      savedBytes: 1,
      plannedPeakBytes: 1,
    };
    const run = (learningRate: number, validationLoss: number): Parameters<typeof tabulate>[1][number] => ({
      ...{ name: "a", learningRate },
      outcome: { diverged: false, updates: 1, validationLoss, measures: {}, storedBytes: 1, peakBytes: 1 },
    });
    const row = tabulate({ ...described, rates: [1, 2, 3] }, [run(1, 5), run(2, 4), run(3, 1), run(1, 4), run(2, 6)]);
    expect([row.best?.learningRate, row.best?.atEdge]).toEqual([1, true]);
  });
});

it("methods without rates of their own have LoRA's, and those with a rank take LoRA's rank and scale", () => {
  const matched = [...methods.values()].filter(({ matched }) => matched !== undefined).map(({ name }) => name);
  expect(matched).toEqual(["lora", "dora", "adalora", "paca"]);
  for (const { rates = [1, 2, 3, 4] } of methods.values()) expect(rates).toEqual(rates.toSorted((a, b) => a - b));
});
