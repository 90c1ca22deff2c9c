import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeSafetensorsFolder } from "../src/export/safetensors-folder.ts";
import { evaluate, loadData, loadModel } from "../src/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform } from "../src/runtime/node.ts";

/** Small models whose config.json was once read otherwise than transformers reads it, with transformers' losses. */
const cases = fileURLToPath(new URL("../../shared/cases/config", import.meta.url));
const present = existsSync(cases);
if (!present) console.warn("config-cases: ../shared/cases is absent, so its models are not read");

let device: Device;
beforeAll(async () => {
  device = await nodePlatform.openDevice({ threads: 1 });
});
afterAll(() => device.close());

async function lossOf(folder: string, data: string): Promise<number> {
  const model = await loadModel(folder, { platform: nodePlatform });
  const { train } = await loadData(model, join(cases, data));
  return (await evaluate(model, train, { device })).loss;
}

const texts: Readonly<Record<string, number>> = {
  control: 7.049331,
  "tied-with-own-lm_head": 7.325699,
  "rope_scaling-beside-rope_parameters": 7.279751,
  "yarn-truncate-false": 7.085333,
  "dynamic-with-original": 7.049331,
  "outer-original": 7.279751,
  "llama-partial_rotary_factor": 7.049331,
  "mistral-layer_types": 7.122375,
  "smollm3-default-theta": 8.757282,
  "gemma-relu": 9.020763,
  "gemma2-silu": 9.19472,
  "gemma2-gelu": 9.150276,
  "gemma3-bidirectional": 10.484889,
  "gemma3-attn-cap": 10.234956,
  "phi3-yarn-type": 7.379106,
  "phi3-no-eps": 7.104416,
};

const pairs: Readonly<Record<string, number>> = {
  "t5-v1.1-resaved-by-transformers5": 7.844345,
  "t5-v1.1-as-published": 7.844345,
  "t5-decoder_start-5": 6.260246,
};

describe.skipIf(!present)("config.json is read as transformers reads it", () => {
  // Losses are stated to six decimals; float32 sums in another order differ in the seventh digit.
  test.each(Object.entries(texts))("%s", async (name, loss) => {
    expect(await lossOf(join(cases, name), "texts.jsonl")).toBeCloseTo(loss, 5);
  });

  test.each(Object.entries(pairs))("%s", async (name, loss) => {
    expect(await lossOf(join(cases, name), "pairs.jsonl")).toBeCloseTo(loss, 5);
  });

  test("phi3 without context lengths has 4096, as transformers", async () => {
    const folder = await changed("phi3-no-eps", (json) => {
      delete json["max_position_embeddings"];
      delete json["original_max_position_embeddings"];
    });
    const model = await loadModel(folder, { platform: nodePlatform });
    expect(model.pretrained.sizes.contextLength).toBe(4096);
    expect(await lossOf(folder, "texts.jsonl")).toBeCloseTo(7.104416, 5);
  });

  test("mistral without a window has 4096, and ignores attention_bias", async () => {
    const plain = await changed("mistral-layer_types", (json) => {
      json["sliding_window"] = 4096;
    });
    const loss = await lossOf(plain, "texts.jsonl");
    const bare = await changed("mistral-layer_types", (json) => {
      delete json["sliding_window"];
      json["attention_bias"] = true;
    });
    expect(await lossOf(bare, "texts.jsonl")).toBe(loss);
  });

  test.each(["gemma2-silu", "gemma3-attn-cap"])("%s without sliding_window has 4096", async (name) => {
    const losses = [];
    for (const window of [4096, undefined]) {
      const folder = await changed(name, (json) => {
        json["sliding_window"] = window;
      });
      losses.push(await lossOf(folder, "texts.jsonl"));
    }
    expect(losses[1]).toBe(losses[0]);
  });
});

describe.skipIf(!present)("problem_type says what a head of several outputs learns", () => {
  test("bertmulti", async () => {
    expect(await lossOf(join(cases, "bertmulti"), "seq.jsonl")).toBeCloseTo(0.6603, 4);
  });

  test("bertreg3 gives three scores, and is not held against one", async () => {
    const { pretrained } = await loadModel(join(cases, "bertreg3"), { platform: nodePlatform });
    expect([pretrained.task, pretrained.labels?.length]).toEqual(["regression", 3]);
    await expect(lossOf(join(cases, "bertreg3"), "reg.jsonl")).rejects.toMatchObject({
      code: "malformed-data",
      message: expect.stringContaining("has 1 score, and the model gives 3 scores"),
    });
  });
});

describe.skipIf(!present)("exports", () => {
  test.each([
    ["gemma2", "final_logit_softcapping", "30.0"],
    ["gemma2", "attn_logit_softcapping", "50.0"],
    ["t5", "initializer_factor", "1.0"],
  ])("write the numbers of %s as they stood: %s", async (name, key, digits) => {
    const folder = await mkdtemp(join(tmpdir(), "config-case-"));
    made.push(folder);
    const model = await loadModel(join(cases, "floats", name), { platform: nodePlatform });
    await writeSafetensorsFolder(nodePlatform.storage, join(folder, "out"), model.pretrained, { baseModel: name });
    const written = await readFile(join(folder, "out", "config.json"), "utf8");
    expect(written).toContain(`"${key}": ${digits},`);
    const numbers = (text: string): readonly string[] => (text.match(/^ *"\w+": -?[\d.e+-]+,?$/gm) ?? []).sort();
    const plain = (lines: readonly string[]): readonly string[] => lines.map((line) => line.replace(/,$/, ""));
    const read = await readFile(join(cases, "floats", name, "config.json"), "utf8");
    expect(plain(numbers(written))).toEqual(plain(numbers(read)));
  });
});

const made: string[] = [];
afterAll(() => Promise.all(made.map((folder) => rm(folder, { recursive: true }))));

/** A case's model with another config.json. */
async function changed(name: string, change: (json: Record<string, unknown>) => void): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "config-case-"));
  made.push(folder);
  await cp(join(cases, name), folder, { recursive: true });
  const path = join(folder, "config.json");
  const json: Record<string, unknown> = JSON.parse(await readFile(path, "utf8"));
  change(json);
  await writeFile(path, JSON.stringify(json));
  return folder;
}
