import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadFlags } from "../src/cli/model.ts";
import { type Given, givenFlags, refuseUnknown } from "../src/cli/parsing.ts";
import { define } from "../src/cli/tune.ts";
import { headOf, loadTuningData, type TuningFlags, tuningChoice } from "../src/cli/tuning.ts";
import type { Field } from "../src/fields.ts";
import {
  type LoadedData,
  type LoadedModel,
  loadModel,
  methods,
  objectives,
  optimizers,
  type TuningChoice,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { root } from "./helpers/cli.ts";

/** What commander makes of a command line of `tune`. */
async function parsed(line: string, data: readonly string[] = ["rows.jsonl"]): Promise<[TuningFlags, Given]> {
  const command = new Command("tune");
  refuseUnknown(command);
  await define(command);
  command.parse(["-m", "model", "-d", ...data, ...line.split(" ").filter(Boolean)], { from: "user" });
  return [command.opts(), givenFlags(command)];
}

async function flagsOf(line: string, data?: readonly string[]): Promise<TuningFlags> {
  return (await parsed(line, data))[0];
}

async function chosen(line: string, kind: LoadedData["kind"] = "sequence"): Promise<TuningChoice> {
  return tuningChoice(...(await parsed(line)), kind);
}

/** A value of a field that is not its own, and the flag that says it. */
function otherValue(name: string, field: Field<unknown>): { readonly flag: string; readonly value: unknown } {
  const dashed = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  if (field.kind === "boolean") return { flag: `--${field.initial ? "no-" : ""}${dashed}`, value: !field.initial };
  const value =
    field.choices?.find((choice) => choice !== field.initial) ??
    (field.kind === "text" ? "0,3" : field.kind === "integer" ? Number(field.initial) + 1 : Number(field.initial) / 2);
  return { flag: `--${dashed} ${value}`, value };
}

describe("every flag of tune reaches its setting", () => {
  const kinds = new Map([...objectives.values()].map(({ name, learnsFrom }) => [name, learnsFrom]));
  it.each([
    ...[...methods.values()].map((record) => ["method", "methodOptions", record] as const),
    ...[...objectives.values()].map((record) => ["objective", "objectiveOptions", record] as const),
    ...[...optimizers.values()].map((record) => ["optimizer", "optimizerOptions", record] as const),
  ])("--%s, and its %s: $name", async (flag, settings, { name, fields }) => {
    const others = Object.entries(fields as Record<string, Field<unknown>>).map(
      ([option, field]) => [option, otherValue(option, field)] as const,
    );
    const line = [`--${flag} ${name}`, ...others.map(([, other]) => other.flag)].join(" ");
    const choice = await chosen(line, kinds.get(name));
    expect(choice[flag]).toBe(name);
    expect(choice[settings] ?? {}).toEqual(Object.fromEntries(others.map(([option, { value }]) => [option, value])));
    expect((await chosen(`--${flag} ${name}`, kinds.get(name)))[settings] ?? {}).toEqual({});
  });

  it.each([
    ["--epochs 0.5", { epochs: 0.5 }],
    ["--max-steps 7", { maxSteps: 7 }],
    ["--batch-size 3", { batchSize: 3 }],
    ["--accumulation-steps 4", { accumulationSteps: 4 }],
    ["--learning-rate 1e-3", { learningRate: 1e-3 }],
    ["--warmup 20", { warmup: 20 }],
    ["--max-grad-norm 0.5", { maxGradNorm: 0.5 }],
    ["--evaluate-every 5", { evaluateEvery: 5 }],
    ["--patience 2", { patience: 2 }],
    ["--checkpoint-every 9", { checkpointEvery: 9 }],
    ["--seed 42", { seed: 42 }],
    ["--schedule cosine", { schedule: "cosine" }],
    ["--memory fast", { memory: "fast" }],
    ["--gradient-checkpointing", { memory: "small" }],
    ["--base-weights q8", { baseWeights: "q8" }],
    ["--target-modules q_proj,v_proj", { targetModules: ["q_proj", "v_proj"] }],
    ["--target-modules /.*up_proj/", { targetModules: /.*up_proj/ }],
    ["--exclude-modules k_proj", { targetModules: { modules: "all-linear", exclude: ["k_proj"] } }],
    ["--layers 0-2,5", { targetModules: { modules: "all-linear", layers: [0, 1, 2, 5] } }],
    ["--rank-pattern up_proj=4,layers.0.q_proj=2", { patterns: { rank: { up_proj: 4, "layers.0.q_proj": 2 } } }],
    ["--alpha-pattern up_proj=3", { patterns: { alpha: { up_proj: 3 } } }],
    ["--modules-to-save lm_head,embed_tokens", { inPlace: { modules: ["lm_head", "embed_tokens"] } }],
    ["--bias adapted", { inPlace: { biases: "adapted" } }],
  ])("%s", async (line, expected) => {
    const choice = await chosen(line);
    for (const [key, value] of Object.entries(expected)) expect(choice[key as keyof typeof choice]).toEqual(value);
  });

  it("--new-head, --new-tokens, --seed and --data, where the head and the vocabulary are made", async () => {
    expect(headOf(await flagsOf("--new-head --new-tokens <a>,<b> --seed 3", ["a.jsonl", "b.csv:0.5"]))).toEqual({
      ...{ labelsFrom: ["a.jsonl", "b.csv"], newHead: true, newTokens: ["<a>", "<b>"], seed: 3 },
    });
    expect(headOf(await flagsOf(""))).toMatchObject({ newHead: false, seed: 0 });
  });

  it.each([
    ["--rank many", /"many" is not a whole number/],
    ["--layers 3-1", /no range of layers/],
    ["--rank-pattern up_proj", /not a module=number/],
    ["--bias some", /none, adapted, all/],
    ["--batch-size 2.5", /not a whole number/],
    ["--exclude-modules all-linear", /leave nothing/],
  ])("%s is refused", async (line, message) => {
    await expect(chosen(line)).rejects.toThrow(message);
  });
});

describe("flags that say which data", () => {
  let folder: string;
  let model: LoadedModel;
  let files: readonly string[];
  const output = { json: true, say: () => undefined, write: () => undefined, record: () => undefined };
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-options-"));
    model = await loadModel(`${root}assets/quickstart/model`, { platform: nodePlatform });
    const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
    files = [join(folder, "a.jsonl"), join(folder, "b.jsonl")];
    for (const [i, file] of files.entries()) await writeFile(file, rows.slice(20 * i, 20 * i + 20).join("\n"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const load = async (line: string, data = files.slice(0, 1)): ReturnType<typeof loadTuningData> =>
    loadTuningData(model, await flagsOf(line, data), output, folder);
  const held = async (line: string): Promise<readonly number[]> =>
    (await load(line)).validation.map((example) => example.line);

  it("--data with weights", async () => {
    const [a = "", b = ""] = files;
    expect((await load("", [`${a}:2`, `${b}:0.25`])).mixture).toEqual([
      { count: 20, weight: 2 },
      { count: 20, weight: 0.25 },
    ]);
  });

  it("--validation holds rows back, which --seed draws", async () => {
    expect((await held("--validation 0.25")).length).toBe(5);
    expect((await held("--validation 3")).length).toBe(3);
    expect(await held("--validation 3 --seed 1")).not.toEqual(await held("--validation 3 --seed 2"));
  });

  it("--validation-data is another file, and leaves the first whole", async () => {
    const [, b = ""] = files;
    const { train, validation } = await load(`--validation-data ${b}`);
    expect([train.length, validation]).toEqual([20, (await load("", [b])).train]);
  });

  it("--max-length cuts what is longer", async () => {
    const { train, warnings } = await load("--max-length 30");
    expect(Math.max(...train.map(({ inputIds }) => inputIds.length))).toBe(30);
    expect(warnings.map(({ code }) => code)).toContain("truncated");
  });

  it("--columns and --skip-bad-rows, where rows are read", async () => {
    const [file = ""] = files;
    const odd = join(folder, "odd.jsonl");
    const [first = ""] = (await readFile(file, "utf8")).split("\n");
    await writeFile(odd, [first.replace('"messages"', '"talk"'), '{"talk": 3}'].join("\n"));
    await expect(load("--columns messages=talk", [odd])).rejects.toThrow("line 2");
    const data = await load("--columns messages=talk --skip-bad-rows", [odd]);
    expect(data.train).toEqual((await load("")).train.slice(0, 1));
    expect([data.skipped.map(({ line }) => line), data.renamed]).toEqual([[2], { messages: "talk" }]);
    await expect(load("--columns prompt", [odd])).rejects.toThrow("key=column");
  });

  it("--chat-template names a template or a file of one, where the model is loaded", async () => {
    const template = join(folder, "own.jinja");
    await writeFile(template, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}");
    const flags = await flagsOf(`--chat-template ${template}`, files.slice(0, 1));
    const { model: own } = await loadFlags({ ...flags, model: `${root}assets/quickstart/model` }, output);
    expect((await own.tokenizer()).chatTemplates.get("default")).toContain("<{{ m.role }}>");
    const other = await flagsOf("--chat-template llama-3", files.slice(0, 1));
    await expect(loadFlags({ ...other, model: `${root}assets/quickstart/model` }, output)).rejects.toThrow(
      "<|eot_id|>",
    );
  });

  it("--stream reads it in pieces, with the same examples", async () => {
    const streamed = await load("--stream");
    if (!("store" in streamed)) throw new Error("it was loaded whole");
    const { train } = await load("");
    expect(await streamed.store.at(train.map((_, i) => i))).toEqual(train);
    await streamed.close();
  });
});
