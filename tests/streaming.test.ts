import { spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type LoadedModel, loadData, loadModel, streamData, tune } from "../src/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { manifestFile } from "../src/io/outputs/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { readDataset, reportData, streamDataset, tokenizeDataset } from "../src/train/data/index.ts";
import { readMetrics } from "../src/train/metrics.ts";
import { letterTokenizer } from "./fixtures/letter-tokenizer.ts";
import { root } from "./helpers/cli.ts";

const tokenizer = letterTokenizer(100);
const options = { tokenizer, maxLength: 64, validation: 0, seed: 0 };

/** Rows of a few kilobytes, some with line breaks and quotes in them, so that pieces end everywhere. */
const rows = Array.from({ length: 1200 }, (_, i) => ({
  prompt: `row ${i % 1100}: "${"é,\n".repeat(i % 5)}"`,
  completion: `${i % 1100} `.repeat(1500),
}));
const quoted = (text: string): string => `"${text.replaceAll('"', '""')}"`;
const files = {
  "d.jsonl": rows.map((row) => JSON.stringify(row)).join("\n"),
  "d.csv": `prompt,completion\r\n${rows.map(({ prompt, completion }) => `${quoted(prompt)},${completion}`).join("\r\n")}`,
  "d.parquet": new Uint8Array(
    parquetWriteBuffer({
      columnData: [
        { name: "prompt", data: rows.map(({ prompt }) => prompt), type: "STRING" },
        { name: "completion", data: rows.map(({ completion }) => completion), type: "STRING" },
      ],
      rowGroupSize: 100,
    }),
  ),
};

describe("files read in pieces", () => {
  it.each(Object.keys(files))("%s: the examples, the report and the warnings of a whole reading", async (path) => {
    const storage = memoryStorage(files);
    const whole = tokenizeDataset(await readDataset(storage, path), tokenizer, options);
    const streamed = await streamDataset(storage, [{ path }], { ...options, cache: "cache" });
    expect(streamed.store.count).toBe(whole.examples.length);
    const order = [7, 1199, 0, 555];
    expect(await streamed.store.at(order)).toEqual(order.map((index) => whole.examples[index]));
    expect(await streamed.store.at(whole.examples.map((_, i) => i))).toEqual(whole.examples);
    expect(streamed.report).toEqual(reportData(whole.examples));
    expect(streamed.report.duplicates.length).toBe(100);
    expect(streamed.warnings).toEqual(whole.warnings);
    expect(streamed.sample.length).toBe(1016); // a thousand of them and the longest
  });

  it("hold back a share of the rows, equal ones together", async () => {
    const storage = memoryStorage(files);
    const { store, validation } = await streamDataset(storage, [{ path: "d.jsonl" }], {
      ...options,
      validation: 0.2,
      cache: "cache",
    });
    expect(store.count + validation.length).toBe(1200);
    expect(validation.length / 1200).toBeCloseTo(0.2, 1);
    const key = ({ inputIds }: { inputIds: Int32Array }): string => inputIds.join();
    const held = new Set(validation.map(key));
    const kept = await store.at(Array.from({ length: store.count }, (_, i) => i));
    expect(kept.some((example) => held.has(key(example)))).toBe(false);
  });

  it("name what is wrong, wherever in the file it is, and leave no cache", async () => {
    const bad = `${files["d.jsonl"]}\n{"prompt": "x"}\n{"text": "y"}`;
    const storage = memoryStorage({ "d.jsonl": bad, "e.csv": 'prompt,completion\n"a,b\n', "f.txt": "x" });
    const stream = (path: string): Promise<unknown> =>
      streamDataset(storage, [{ path }], { ...options, cache: "cache" });
    await expect(stream("d.jsonl")).rejects.toThrow(/line 1201: lacks "completion"[\s\S]*line 1202/);
    await expect(stream("e.csv")).rejects.toMatchObject({ code: "malformed-data" });
    await expect(stream("f.txt")).rejects.toMatchObject({ code: "unknown-data-file" });
    expect(await storage.sizeBytes("cache")).toBeUndefined();
  });

  it("take little memory, however large they are", async () => {
    const script = fileURLToPath(new URL("helpers/stream-large.ts", import.meta.url));
    const child = spawn(process.execPath, ["--max-old-space-size=96", "--import", "tsx", script], { cwd: root });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (part) => {
      text += part;
    });
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect(code, text).toBe(0);
    const { fileBytes, examples, grownBytes } = JSON.parse(text) as Record<string, number>;
    expect(fileBytes).toBeGreaterThan(250e6);
    expect(examples).toBe(4096);
    expect(grownBytes).toBeLessThan(160e6); // of a heap of 96 MB, and pieces of 4 MB outside it
  });
});

describe("runs", () => {
  let folder: string;
  let model: LoadedModel;
  const path = `${root}assets/quickstart/heldout.jsonl`;
  const unsaved = { maxSteps: 6, batchSize: 4, learningRate: 1e-3, methodOptions: { rank: 4 } };
  const settings = { ...unsaved, checkpointEvery: 2 };
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-stream-"));
    model = await loadModel(`${root}assets/quickstart/model`, { platform: nodePlatform });
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  const metrics = (name: string): Promise<unknown> => readMetrics(nodePlatform.storage, join(folder, name));

  it("on streamed data have the losses of runs on loaded data, and resume each other", async () => {
    const loaded = await loadData(model, path);
    await tune(model, loaded, { ...settings, output: join(folder, "loaded") });
    const streamed = await streamData(model, path, { folder: join(folder, "streamed") });
    const stop = new AbortController();
    await tune(model, streamed, {
      ...settings,
      output: join(folder, "streamed"),
      signal: stop.signal,
      onEvent: (event) => event.kind === "step" && event.step === 3 && stop.abort(),
    });
    await expect(streamData(model, path, { folder: join(folder, "streamed") })).rejects.toMatchObject({
      code: "in-use",
    });
    await streamed.close();
    await tune(model, loaded, { ...settings, output: join(folder, "streamed"), resume: true });
    expect(await metrics("streamed")).toEqual(await metrics("loaded"));
    expect((await readdir(join(folder, "streamed"))).sort()).toEqual([
      manifestFile,
      "checkpoint.safetensors",
      "metrics.jsonl",
    ]);
  });

  it("on several files take each as often as its weight says", async () => {
    const half = join(folder, "half.jsonl");
    const all = new TextDecoder()
      .decode(await nodePlatform.storage.read(path))
      .trim()
      .split("\n");
    await nodePlatform.storage.write(half, all.slice(0, 20).join("\n"));
    const data = await loadData(
      model,
      [
        { path, weight: 0.5 },
        { path: half, weight: 3 },
      ],
      { validation: 0.1 },
    );
    const count = data.mixture?.[0]?.count ?? 0;
    expect(count).toBeLessThanOrEqual(all.length - Math.round(0.1 * all.length));
    expect(data.mixture?.map(({ weight }) => weight)).toEqual([0.5, 3]);
    // What is held back of one file is trained on in none.
    const key = ({ inputIds }: { inputIds: Int32Array }): string => inputIds.join();
    const held = new Set(data.validation.map(key));
    expect(data.train.some((example) => held.has(key(example)))).toBe(false);
    let steps = 0;
    await tune(model, data, {
      ...unsaved,
      maxSteps: 0,
      epochs: 0.02,
      onEvent: (event) => {
        if (event.kind === "start") steps = event.steps;
      },
    });
    const epoch = Math.ceil((Math.round(count / 2) + 3 * (data.mixture?.[1]?.count ?? 0)) / settings.batchSize);
    expect(steps).toBe(Math.ceil(0.02 * epoch));
  });
});
