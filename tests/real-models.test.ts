import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { exactMatch, generateBatch, generateText, openDecoder } from "../src/generate/index.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch, parseDocuments, tokenizeDataset } from "../src/train/data/index.ts";
import { openTrainer, type TrainerOptions } from "../src/train/trainer.ts";
import { golden } from "./helpers/golden.ts";

const shared = fileURLToPath(new URL("../../shared", import.meta.url));
const present = existsSync(`${shared}/models`);
if (!present) console.warn("../shared is absent: the tests on real checkpoints are skipped.");

/** Settings under which a trainer that has not stepped measures the model itself. */
const untrained: TrainerOptions = {
  choice: chooseMethod("lora", { rank: 1 }),
  targets: "all-linear",
  optimizer: chooseOptimizer("adamw"),
  maxGradNorm: 0,
  memory: "balanced",
  accumulates: false,
  seed: 0,
};

function readJson<T>(name: string): T {
  return JSON.parse(readFileSync(golden(name), "utf8")) as T; // made by the script beside it
}

describe.skipIf(!present)("real checkpoints", () => {
  let device: Device;
  beforeAll(async () => {
    device = await openNodeDevice({ worker: false, threads: 2 });
  });
  afterAll(() => device.close());

  const greedy = readJson<Record<string, { prompt: number[]; ids: number[]; text: string }>>("greedy.json");
  describe.each(Object.entries(greedy))("%s", (name, expected) => {
    const folder = `${shared}/models/${name}`;

    it("continues a story greedily as transformers does, alone and among others", async () => {
      const tokenizer = await loadTokenizer(nodeStorage, folder);
      const model = await openModel(nodeStorage, folder);
      const decoder = await openDecoder(device, model);
      const prompt = tokenizer.encode("Once upon a time");
      expect(prompt).toEqual(expected.prompt);
      const pieces: string[] = [];
      const stream = generateText(decoder, tokenizer, prompt, { maxNewTokens: 60 });
      let step = await stream.next();
      while (!step.done) {
        pieces.push(step.value);
        step = await stream.next();
      }
      expect(step.value.ids).toEqual(expected.ids);
      expect(pieces.join("")).toBe(step.value.text);
      const others = [tokenizer.encode("Lily and Ben went"), prompt, tokenizer.encode("The")];
      const batch = await generateBatch(decoder, tokenizer, others, { maxNewTokens: 60 });
      expect(batch[1]?.ids).toEqual(expected.ids);
      await decoder.close();
    });

    it("has the loss that transformers measures on stories", async () => {
      const rows = readJson<Record<string, { nll: number; targets: number }[]>>("losses.json")[name] ?? [];
      const model = await openModel(nodeStorage, folder);
      const tokenizer = await loadTokenizer(nodeStorage, folder);
      const text = readFileSync(`${shared}/data/tinystories/stories.txt`, "utf8");
      const stories = text
        .split("<|endoftext|>")
        .slice(0, rows.length)
        .map((story) => story.trim());
      const maxLength = model.sizes.contextLength;
      const data = parseDocuments(stories.join("<|endoftext|>"));
      const { examples } = tokenizeDataset(data, tokenizer, { maxLength, tooLong: "truncate", appendEos: false });
      expect(examples).toHaveLength(rows.length);
      const trainer = await openTrainer(device, model, untrained);
      for (const [i, example] of examples.entries()) {
        const batch = makeBatch([example], { padId: 0 });
        expect(batch.targets).toBe(rows[i]?.targets);
        expect((await trainer.evaluate([batch])).loss / ((rows[i]?.nll ?? 0) / batch.targets)).toBeCloseTo(1, 5);
      }
      await trainer.close();
    });
  });

  // What ../shared/DATA.md states of stories 0..299: each from BOS, as many targets as the context has positions.
  it.each([
    ["stories260k", 1.49971],
    ["babyllama-tok105", 0.76267],
    ["llama2xs-281k", 2.09907],
  ])("%s has the stated loss of %f on 300 stories", async (name, stated) => {
    const folder = `${shared}/models/${name}`;
    const model = await openModel(nodeStorage, folder);
    const tokenizer = await loadTokenizer(nodeStorage, folder);
    const text = readFileSync(`${shared}/data/tinystories/stories.txt`, "utf8");
    const stories = text.split("<|endoftext|>").slice(0, 300);
    const maxLength = model.sizes.contextLength + 1;
    const data = parseDocuments(stories.map((story) => story.trim()).join("<|endoftext|>"));
    const { examples } = tokenizeDataset(data, tokenizer, { maxLength, tooLong: "truncate", appendEos: false });
    expect(examples).toHaveLength(300);
    const trainer = await openTrainer(device, model, untrained);
    const batches = Array.from({ length: 75 }, (_, i) => makeBatch(examples.slice(4 * i, 4 * i + 4), { padId: 0 }));
    expect((await trainer.evaluate(batches)).loss).toBeCloseTo(stated, 4);
    await trainer.close();
  });

  it("gpt2-nano-sort sorts 729 of 729 inputs", async () => {
    const model = await openModel(nodeStorage, `${shared}/models/gpt2-nano-sort/hf`);
    const decoder = await openDecoder(device, model);
    const prompts = Array.from({ length: 729 }, (_, n) =>
      Array.from({ length: 6 }, (__, i) => Math.floor(n / 3 ** i) % 3),
    );
    let at = await decoder.start(prompts);
    const sorted: number[][] = prompts.map(() => []);
    for (let k = 0; k < 6; k++) {
      const tokens = at.logits.map((scores) => scores.indexOf(Math.max(...scores)));
      for (const [i, token] of tokens.entries()) sorted[i]?.push(token);
      if (k < 5) at = await at.next(tokens);
    }
    await at.end();
    await decoder.close();
    expect(sorted).toEqual(prompts.map((prompt) => prompt.toSorted()));
  });

  it("measures exact match", async () => {
    const folder = `${shared}/models/stories260k`;
    const tokenizer = await loadTokenizer(nodeStorage, folder);
    const decoder = await openDecoder(device, await openModel(nodeStorage, folder));
    const expected = greedy["stories260k"];
    if (!expected) throw new Error("greedy.json holds stories260k");
    const inputIds = Int32Array.from([...expected.prompt, ...expected.ids.slice(0, 20)]);
    const trained = inputIds.map((_, i) => Number(i >= expected.prompt.length));
    const right = { inputIds, trained: Uint8Array.from(trained), line: 1 };
    const wrong = { ...right, inputIds: inputIds.with(inputIds.length - 3, 400), line: 2 };
    const result = await exactMatch(decoder, tokenizer, [right, wrong]);
    // The model goes on after twenty tokens, so even the right beginning is not the expected whole.
    expect(result).toMatchObject({ total: 2, skipped: 0, matches: 0 });
    expect(result.answers[0]?.given.startsWith(result.answers[0]?.expected)).toBe(true);
    expect(result.answers[1]?.given.startsWith(result.answers[1]?.expected)).toBe(false);
    await decoder.close();
  });
});
