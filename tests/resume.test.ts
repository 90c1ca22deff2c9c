import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { loadData, loadModel, quantize } from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { root, runHere } from "./helpers/cli.ts";

/*
 * What is resumed is compared by content with what it was started with: the model's weights, configuration and tokenizer, the
 * data, the settings; and what it goes on from is as it was written.
 */
let folder: string;
const at = (name: string): string => join(folder, name);
const words = (line: string): string[] => line.split(" ");
const tuning = words("--max-steps 2 --batch-size 2 --max-length 48 --rank 2 --learning-rate 1e-3");

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-resume-"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  for (const [i, name] of ["a", "b", "c"].entries())
    await writeFile(at(`${name}.jsonl`), rows.slice(24 * i, 24 * i + 24).join("\n"));
  await cp(`${root}assets/quickstart/model`, at("m"), { recursive: true });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Every weight with its sign changed. */
function negated(file: Buffer): Buffer {
  const bytes = Buffer.from(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  for (let i = start + 3; i < bytes.length; i += 4) bytes[i] = (bytes[i] ?? 0) ^ 0x80;
  return bytes;
}

/** Files of the model, changed one at a time, and what of a fingerprint they change. */
const changes: readonly (readonly [string, (content: Buffer) => Buffer | string, string])[] = [
  [
    "m/config.json",
    (text) => text.toString().replace(/"rope_theta": *[^,]*/, '"rope_theta": 500'),
    "config.rope_theta",
  ],
  ["m/model.safetensors", negated, "weights"],
  [
    "m/tokenizer_config.json",
    (text) => text.toString().replace("{", '{"added_by_me": true,'),
    "tokenizer.tokenizer_config.json",
  ],
];

/** Check that resuming is refused with each file changed, and goes on with none. */
async function refusesEach(resume: () => Promise<unknown>, data?: string): Promise<void> {
  const own = [
    ...changes,
    ...(data === undefined ? [] : [[data, () => readFile(at("c.jsonl")), "trainData"] as const]),
  ];
  for (const [path, change, named] of own) {
    const before = await readFile(at(path));
    await writeFile(at(path), await change(before));
    await expect(resume(), path).rejects.toMatchObject({
      code: "resume-mismatch",
      message: expect.stringContaining(`${named}: `),
    });
    await writeFile(at(path), before);
  }
}

it("tune: other weights, configuration, tokenizer, data or settings", async () => {
  const args = ["-m", at("m"), "-d", at("a.jsonl"), ...tuning, "-o", at("run")];
  await runHere("tune", ...args);
  await refusesEach(() => runHere("tune", ...args, "--resume"), "a.jsonl");
  const other = runHere("tune", ...args, "--resume", "--rank", "4", "--method", "dora");
  await expect(other).rejects.toMatchObject({
    code: "resume-mismatch",
    message: expect.stringMatching(/method: "lora" then, "dora" now\n {2}methodOptions.rank: 2 then, 4 now/),
  });
  expect((await runHere("tune", ...args, "--resume")).code).toBe(0);
  const checkpoint = await readFile(at("run/checkpoint.safetensors"));
  const middle = Math.floor(checkpoint.length / 2);
  checkpoint[middle] = (checkpoint[middle] ?? 0) ^ 1;
  await writeFile(at("run/checkpoint.safetensors"), checkpoint);
  await expect(runHere("tune", ...args, "--resume")).rejects.toMatchObject({ code: "bad-checkpoint" });
});

it("continual: other weights, configuration, tokenizer, data or settings, and a task's model that was changed", async () => {
  const args = ["-m", at("m"), "-d", at("a.jsonl"), "--then", at("b.jsonl"), ...tuning, "-o", at("order")];
  await runHere("continual", ...args);
  const resume = (...more: readonly string[]): Promise<unknown> => runHere("continual", ...args, "--resume", ...more);
  for (const [path, named] of [
    ["m/config.json", "config.rope_theta"],
    ["m/model.safetensors", "weights"],
    ["a.jsonl", "tasks.1.trainData"],
    ["b.jsonl", "tasks.2.trainData"],
  ] as const) {
    const before = await readFile(at(path));
    const change = changes.find(([of]) => of === path)?.[1];
    await writeFile(at(path), change ? change(before) : await readFile(at("c.jsonl")));
    await expect(resume(), path).rejects.toMatchObject({
      code: "resume-mismatch",
      message: expect.stringContaining(`${named}: `),
    });
    await writeFile(at(path), before);
  }
  await expect(resume("--method", "dora", "--rank", "4", "--learning-rate", "0.05")).rejects.toMatchObject({
    code: "resume-mismatch",
    message: expect.stringMatching(/learningRate: 0.001 then, 0.05 now/),
  });
  await expect(resume("--between", "apart")).rejects.toMatchObject({ code: "resume-mismatch" });
  await resume();
  const kept = await readFile(at("order/continual.json"), "utf8");
  await writeFile(at("order/continual.json"), kept.replace(/"intruders": \d+/, '"intruders": 7777'));
  await expect(resume()).rejects.toMatchObject({ code: "bad-checkpoint" });
});

it("compare: an outcome of another model or of other data", async () => {
  const args = ["-m", at("m"), "-d", at("a.jsonl"), ...words("--methods lora --rates 1e-3 --seeds 0 --validation 4")];
  const more = words("--max-steps 2 --batch-size 2 --max-length 48 --rank 2");
  await runHere("compare", ...args, ...more, "-o", at("compared"));
  await refusesEach(() => runHere("compare", ...args, ...more, "-o", at("compared"), "--resume"), "a.jsonl");
  expect((await runHere("compare", ...args, ...more, "-o", at("compared"), "--resume")).code).toBe(0);
});

it("quantize: other weights, configuration or tokenizer, and blocks that were changed", async () => {
  const run = async (options: { readonly signal?: AbortSignal; readonly onEvent?: () => void }): Promise<unknown> => {
    const model = await loadModel(at("m"), { platform: nodePlatform });
    const data = await loadData(model, at("a.jsonl"));
    const choice = { method: "rtn", bits: 4, output: at("q"), resume: true } as const;
    return quantize(model, data, { ...choice, ...options });
  };
  const stop = new AbortController();
  let events = 0;
  const stopped = await run({ signal: stop.signal, onEvent: () => (++events > 12 ? stop.abort() : undefined) });
  expect(stopped).toMatchObject({ ended: "interrupted" });
  await refusesEach(() => run({}), "a.jsonl");
  const block = await readFile(at("q.work/block-0000.safetensors"));
  const other = Buffer.from(block);
  other[other.length - 9] = (other[other.length - 9] ?? 0) ^ 1;
  await writeFile(at("q.work/block-0000.safetensors"), other);
  await expect(run({})).rejects.toMatchObject({ code: "bad-checkpoint" });
  await writeFile(at("q.work/block-0000.safetensors"), block);
  expect(await run({})).toMatchObject({ ended: "finished" });
});
