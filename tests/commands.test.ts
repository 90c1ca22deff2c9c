import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPacked } from "../src/io/packed/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { jsonLines, root, runHere, scion, startScion } from "./helpers/cli.ts";

/*
 * Options of commands that the other tests of the command line leave alone: each does what it says.
 */
const model = `${root}assets/quickstart/model`;
const prompt = "set a timer for ten minutes";
let folder: string;
let data: string;
let few: string;
let adapter: string;
const at = (name: string): string => join(folder, name);
const words = (line: string): string[] => line.split(" ");

type Line = Readonly<Record<string, unknown>>;

/** Run a command to its end; what it would write as JSON. */
async function json(name: string, ...args: readonly string[]): Promise<readonly Line[]> {
  const { code, records } = await runHere(name, ...args);
  expect(code).toBe(0);
  return records;
}

/** The last of it. */
async function end(name: string, ...args: readonly string[]): Promise<Line> {
  return (await json(name, ...args)).at(-1) ?? {};
}

/** The header of a safetensors file. */
async function headerOf(path: string): Promise<Readonly<Record<string, { readonly dtype: string }>>> {
  const bytes = await readFile(path);
  const { __metadata__, ...tensors } = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
  return tensors;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-commands-"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  [data, few] = [at("rows.jsonl"), at("few.jsonl")];
  await writeFile(data, rows.slice(0, 24).join("\n"));
  await writeFile(few, rows.slice(24, 28).join("\n"));
  const settings = words("--rank 2 --alpha 32 --learning-rate 0.02 --max-steps 4 --batch-size 4");
  await json("tune", "-m", model, "-d", data, "-o", at("run"), ...settings);
  adapter = join(at("run"), "adapter");
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("tune: where it attaches, when it measures, how the rate goes, and what it writes", async () => {
  const run = at("chosen");
  await json(
    ...(["tune", "-m", model, "-d", data, "-o", run, "--validation-data", few, "--base-text", few] as const),
    ...words("--track-intruders --no-tensorboard --stream --layers 0-1 --exclude-modules q_proj"),
    ...words("--max-steps 4 --batch-size 4 --learning-rate 0.01 --schedule constant --warmup 2 --evaluate-every 2"),
  );
  const lines = jsonLines(readFileSync(join(run, "metrics.jsonl"), "utf8"));
  const of = (kind: string): readonly Line[] => lines.filter((line) => line["kind"] === kind);
  expect(of("step").map(({ learningRate }) => learningRate)).toEqual([0, 0.005, 0.01, 0.01]);
  for (const kind of ["evaluation", "observation"]) expect(of(kind).map(({ step }) => step)).toEqual([2, 4]);
  expect(Object.keys(of("observation")[0]?.["measures"] ?? {})).toEqual(["forgetting", "intruders"]);
  const events = (of: string): number => readdirSync(of).filter((name) => name.includes("tfevents")).length;
  expect([events(run), events(at("run"))]).toEqual([0, 1]);
  const names = Object.keys(await headerOf(join(run, "adapter/adapter_model.safetensors")));
  expect(new Set(names.map((name) => /layers\.(\d+)/.exec(name)?.[1]))).toEqual(new Set(["0", "1"]));
  expect(names.filter((name) => name.includes("q_proj"))).toEqual([]);
});

it("lr: rates from one to another by equal factors, and a picture", async () => {
  const picture = at("rates.svg");
  const range = words("--from 1e-4 --to 1e-1 --steps 10 --batch-size 4");
  const { points } = await end("lr", "-m", model, "-d", data, ...range, "--picture", picture);
  const rates = (points as { learningRate: number }[]).map(({ learningRate }) => learningRate);
  rates.forEach((rate, i) => {
    expect(rate / (1e-4 * 1000 ** (i / 9))).toBeCloseTo(1, 9);
  });
  expect(rates.length).toBeGreaterThan(5);
  expect(await readFile(picture, "utf8")).toMatch(/^<svg .*<\/svg>\n$/s);
});

describe("quantize", () => {
  const quantize = (out: string, line: string): Promise<readonly Line[]> =>
    json("quantize", "-m", model, "--calibration", data, "-o", at(out), ...words(line));
  const dtypeOfEmbeddings = async (out: string): Promise<unknown> =>
    (await headerOf(join(at(out), "packed.safetensors")))["model.embed_tokens.weight"]?.dtype;

  const codesOf = async (out: string): Promise<unknown> => {
    const { matrices } = await openPacked(nodeStorage, join(at(out), "packed.safetensors"));
    return Promise.all([...matrices.values()].map(async (entry) => [entry.name, await entry.read()]));
  };

  it("packs by the method, the bits and the rows that are asked for, and keeps the rest as asked", async () => {
    const tokensOf = (lines: readonly Line[]): number =>
      Number(lines.find(({ kind }) => kind === "calibration")?.["tokens"]);
    const lines = await quantize("rtn", "--method rtn --bits 4 --group-size 32");
    expect(lines.at(-1)).toMatchObject({ ended: "finished", averageBits: 4, bitsPerWeight: 4 + 20 / 32 });
    expect(await dtypeOfEmbeddings("rtn")).toBe("F16");
    const wide = await quantize(
      "wide",
      "--method rtn --bits 2 --calibration-rows 16 --max-length 30 --keep-as float32",
    );
    expect(await dtypeOfEmbeddings("wide")).toBe("F32");
    expect(tokensOf(wide)).toBe(16 * 30);
    expect(tokensOf(lines)).toBeGreaterThan(24 * 30);
    const { newTokens } = await end(
      "generate",
      "-m",
      at("rtn"),
      "-p",
      prompt,
      ...words("--lookups exact --max-new-tokens 4"),
    );
    expect(newTokens).toBe(4);
  });

  it("rounds to nearest without text, to the same codes", async () => {
    const line = ["-m", model, ...words("--method rtn --bits 4 --group-size 32")];
    const lines = await json("quantize", ...line, "-o", at("untexted"));
    expect(lines.at(-1)).toMatchObject({ ended: "finished", averageBits: 4, bitsPerWeight: 4 + 20 / 32 });
    const [first] = lines.flatMap(({ report }) => (report as Line | undefined) ?? []);
    expect(first).toMatchObject({ weightError: expect.any(Number), deadInputs: 0 });
    expect(first).not.toHaveProperty("outputError");
    expect(await codesOf("untexted")).toEqual(await codesOf("rtn"));
    await expect(
      runHere("quantize", ...line, "-o", at("untexted-2"), ...words("--calibration-rows 3")),
    ).rejects.toThrow(/--calibration-rows would do nothing: there is no --calibration text/);
  });

  it("shares scales in blocks, spends an average of bits by the rule, and tunes the scales", async () => {
    const tuning = "--tune-scales --tune-steps 2 --tune-rate 1e-4";
    const lines = await quantize("mixed", `--bits mixed:2.2 --variant lat --allocate rule --rounds 2 ${tuning}`);
    const bits = lines.filter(({ kind }) => kind === "matrix").map(({ report }) => (report as { bits: number }).bits);
    expect(new Set(bits)).toEqual(new Set([2, 3]));
    expect(lines.at(-1)?.["averageBits"]).toBeLessThan(2.5);
    const tuned = lines.flatMap(({ event }) => (event as { kind: string; learningRate: number } | undefined) ?? []);
    expect(tuned.filter(({ kind }) => kind === "step")).toHaveLength(2);
    const rates = tuned.map(({ learningRate = 0 }) => learningRate);
    expect([Math.max(...rates) > 0, Math.max(...rates) <= 1e-4]).toEqual([true, true]);
  });

  it("compares every way on a text of its own, and reads back what is there", async () => {
    const line = `--bits 2 --compare --evaluation ${few} --calibration-rows 16 --max-length 32`;
    const [own, ...rows] = (await quantize("compared", line)).filter(({ kind }) => kind !== "data");
    expect(own?.["report"]).toBeUndefined();
    expect(rows.map(({ name }) => name)).toEqual(["shiftadd", "gptq", "bcq", "rtn", "shiftadd-lat"]);
    for (const { loss } of rows) expect(loss).not.toBe(own?.["loss"]);
  });

  it("that was stopped goes on, where it was asked to", async () => {
    const flags = ["--calibration", data, "-o", at("stopped"), ...words("--bits 3 --variant acc")] as const;
    const { child, ended } = startScion("quantize", "-m", model, ...flags);
    let over = false;
    void ended.then(() => {
      over = true;
    });
    const begun = (): boolean => existsSync(join(at("stopped.work"), "block-0000.safetensors"));
    while (!over && !begun()) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill("SIGINT");
    expect((await ended).code).toBe(130);
    await expect(runHere("quantize", "-m", model, ...flags)).rejects.toMatchObject({ code: "run-exists" });
    const lines = await json("quantize", "-m", model, ...flags, "--resume");
    expect(lines.find(({ kind }) => kind === "resumed")?.["blocks"]).toBeGreaterThan(0);
    expect([lines.at(-1)?.["averageBits"], existsSync(at("stopped.work"))]).toEqual([3, false]);
  });
});

it("generate and chat: how tokens are chosen, what comes before the prompt, and where the answer ends", async () => {
  const answer = (line: string): Promise<Line> =>
    end("generate", "-m", model, "-p", prompt, ...words(`--max-new-tokens 12 ${line}`));
  const textOf = async (line: string): Promise<string> => String((await answer(line))["text"]);
  const { text: greedy, promptTokens } = await answer("--temperature 0");
  const text = String(greedy);
  for (const line of ["--top-k 1", "--top-p 1e-6", "--min-p 1"])
    expect(await textOf(`--temperature 1 ${line}`)).toBe(text);
  const drawn = await textOf("--temperature 3 --seed 1");
  expect(await textOf("--temperature 3 --seed 1")).toBe(drawn);
  expect(await textOf("--temperature 3 --seed 2")).not.toBe(drawn);
  expect(await textOf("--repetition-penalty 1000")).not.toBe(text);
  const stop = text.slice(3, 5);
  expect(await answer(`--stop ${stop}`)).toMatchObject({
    text: text.slice(0, text.indexOf(stop)),
    finishReason: "stop",
  });
  const kind = await answer("--system kind");
  expect(kind["promptTokens"]).toBeGreaterThan(Number(promptTokens));
  const raw = await answer("--raw");
  expect(raw["promptTokens"]).toBeLessThan(Number(promptTokens));
  const input = await scion(["generate", "-m", model, "-p", "-", "--system", "kind", "--max-new-tokens", "12"], prompt);
  expect(input.stdout.trim()).toBe(String(kind["text"]).trim());
  const { stdout } = await scion(["chat", "-m", model, "--system", "kind", "--max-new-tokens", "12"], `${prompt}\n`);
  expect(stdout.trim()).toBe(String(kind["text"]).trim());
});

it("eval: how much of a row is read, how many at a time, what is shown, and against which base", async () => {
  const use = ["-m", model, "-a", adapter, "-d", data];
  const measured = (line: string): Promise<Line> =>
    end("eval", ...use, "--no-exact-match", ...line.split(" ").filter(Boolean));
  const [whole, alone, cut] = [await measured(""), await measured("--batch-size 1"), await measured("--max-length 30")];
  expect(alone["loss"]).toBeCloseTo(Number(whole["loss"]), 5);
  expect(cut["targets"]).toBeLessThan(Number(whole["targets"]));
  expect(whole["exactMatch"]).toBeUndefined();
  const shown = async (count: number): Promise<number> =>
    (await runHere("eval", "-m", model, "-d", few, "--show", String(count))).said.match(/expected/g)?.length ?? 0;
  expect([await shown(0), await shown(2)]).toEqual([0, 2]);
  const merged = at("merged");
  await json("merge", "-m", model, "-a", adapter, "-o", merged);
  const forgetting = async (...flags: readonly string[]): Promise<number> => {
    const found = await end("eval", ...flags, "-d", few, "--base-text", few, "--no-exact-match");
    return (found["forgetting"] as { forgetting: number }).forgetting;
  };
  const apart = await forgetting("-m", model, "-a", adapter);
  expect(await forgetting("-m", merged, "--base-model", model)).toBeCloseTo(apart, 4);
});

it("diagnose and mend: what is looked at, how, and where decompositions are kept", async () => {
  const cache = at("spectra");
  const compare = ["--base", model, "--adapter", adapter, "--cache", cache, "--eps", "0.9"];
  const look = (line: string): Promise<Line> => end("diagnose", ...compare, ...words(line));
  const exact = await look("--k 3 --side right --method exact");
  expect(exact).toMatchObject({ k: 3, eps: 0.9, side: "right" });
  const matrices = exact["matrices"] as { method: string; maxCos: number[] }[];
  expect(matrices.every(({ method, maxCos }) => method === "exact" && maxCos.length === 3)).toBe(true);
  expect(readdirSync(cache).length).toBeGreaterThan(0);
  expect((await look("--k 3 --side right --method rotated --fused"))["total"]).toBe(exact["total"]);
  const mend = (name: string, line: string): Promise<Line> =>
    end("mend", ...compare, "--to", "peft", "-o", at(name), ...words(line));
  const [same, all] = [await mend("same", "--rank same --lambda 0.5"), await mend("all", "--mode all --rank exact")];
  expect(same["error"]).toBeGreaterThan(0);
  expect(all["error"]).toBe(0);
  expect(all["scaled"]).toBeGreaterThanOrEqual(Number(same["scaled"]));
  const config = JSON.parse(await readFile(join(at("same"), "adapter_config.json"), "utf8"));
  expect(config).toMatchObject({ r: 2 });
});

it("combine and export: the way, the rank, and what numbers are held in", async () => {
  const pair = ["-m", model, "-a", `one=${adapter}`, "-a", `two=${adapter}`];
  const combine = (name: string, line: string): Promise<Line> =>
    end("combine", ...pair, ...words(line), "-o", at(name));
  expect(await combine("svd", "--how svd --rank 1")).toMatchObject({ how: "svd", rank: 1 });
  expect(await combine("linear", "--how linear --weights 0.7,0.3")).toMatchObject({ how: "linear", rank: 2 });
  const web = at("web");
  await json("export", "-m", model, "-a", adapter, "--to", "transformers.js", "--dtype", "fp16, q8", "-o", web);
  expect(readdirSync(join(web, "onnx")).sort()).toEqual(["model_fp16.onnx", "model_quantized.onnx"]);
  const gguf = ["-m", model, "--to", "gguf", "-o", at("gguf")];
  await expect(runHere("export", ...gguf)).rejects.toMatchObject({ code: "no-gguf-form" });
  expect(existsSync(at("gguf"))).toBe(false);
  await json("export", ...gguf, "--dtype", "q8_0", "--pre-tokenizer", "smollm");
  expect(readdirSync(at("gguf"))).toContain("gguf-q8_0.gguf");
});

it("compare: what is measured on what, and going on", async () => {
  const line = words("--methods lora --rates lora=1e-2,1e-3 --seeds 5 --max-steps 1 --batch-size 4 --rank 2");
  const measures = ["--validation", "4", "--test-data", few, "--base-text", few];
  const flags = ["compare", "-m", model, "-d", data, "-o", at("compare"), ...measures, ...line] as const;
  const whole = await end(...flags);
  expect(whole).toMatchObject({ tested: true, done: 2, total: 2 });
  const [row] = whole["rows"] as { rates: { learningRate: number }[]; best: { measures: object } }[];
  expect(row?.rates.map(({ learningRate }) => learningRate)).toEqual([1e-3, 1e-2]);
  expect(Object.keys(row?.best.measures ?? {})).toEqual(["loss", "forgetting", "intruders"]);
  await expect(runHere(...flags)).rejects.toMatchObject({ code: "run-exists" });
  expect((await end(...flags, "--resume"))["rows"]).toEqual(whole["rows"]);
});
