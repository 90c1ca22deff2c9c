import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AutoModelForCausalLM, env, pipeline, Tensor, type TextGenerationPipeline } from "@huggingface/transformers";
import { afterAll, describe, expect, it } from "vitest";
import { writeTransformersJsFolder } from "../src/export/index.ts";
import { openDecoder } from "../src/generate/index.ts";
import { openModel } from "../src/models/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { golden } from "./helpers/golden.ts";

const shared = fileURLToPath(new URL("../../shared", import.meta.url));
const present = existsSync(`${shared}/models`);
if (!present) console.warn("../shared is absent: exports of real checkpoints are not tried in transformers.js.");

const root = await mkdtemp(join(tmpdir(), "scion-tjs-"));
afterAll(() => rm(root, { recursive: true }));
env.allowRemoteModels = false;
env.localModelPath = root;

const greedy = JSON.parse(readFileSync(golden("greedy.json"), "utf8")) as Record<string, { text: string }>; // ours

describe.skipIf(!present)(
  "transformers.js loads the exported folder and continues a story as we and transformers do",
  () => {
    it.each([
      { name: "stories260k", external: false },
      { name: "stories260k", external: true },
      { name: "babyllama-tok105", external: false },
    ])("$name (weights beside the graph: $external)", async ({ name, external }) => {
      const model = await openModel(nodeStorage, `${shared}/models/${name}`);
      const folder = `${name}-${external}`;
      await writeTransformersJsFolder(nodeStorage, join(root, folder), model, {
        baseModel: name,
        ...(external ? { externalDataBytes: 0 } : {}),
      });
      expect((await readdir(join(root, folder, "onnx"))).sort()).toEqual(
        external ? ["model.onnx", "model.onnx_data"] : ["model.onnx"],
      );
      const generate: TextGenerationPipeline = await pipeline("text-generation", folder, { device: "cpu" });
      const [output] = await generate("Once upon a time", {
        max_new_tokens: 60,
        do_sample: false,
        return_full_text: false,
      });
      expect(output).toMatchObject({ generated_text: greedy[name]?.text });
      await generate.dispose();
    });
  },
);

const families = readdirSync(golden("families"), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

describe("transformers.js generates what we generate, for every family", () => {
  const prompt = [5, 9, 33, 2, 17, 40];
  const length = 14; // past the windows of those that have one

  it.each(families)("%s", async (name) => {
    const model = await openModel(nodeStorage, golden(`families/${name}`));
    const folder = `family-${name}`;
    await writeTransformersJsFolder(nodeStorage, join(root, folder), model, { baseModel: name });
    const theirs = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype: "fp32" });
    const ids = new Tensor("int64", BigInt64Array.from(prompt, BigInt), [1, prompt.length]);
    const mask = new Tensor(
      "int64",
      BigInt64Array.from(prompt, () => 1n),
      [1, prompt.length],
    );
    const output = await theirs.generate({
      ...{ inputs: ids, attention_mask: mask },
      ...{ max_new_tokens: length, do_sample: false, eos_token_id: [], pad_token_id: 0 },
    });
    await theirs.dispose();

    const device = await openNodeDevice({ worker: false, threads: 1 });
    const decoder = await openDecoder(device, model);
    let at = await decoder.start([prompt]);
    const ours: number[] = [];
    while (ours.length < length) {
      const scores = at.logits[0] ?? new Float32Array();
      ours.push(scores.indexOf(Math.max(...scores)));
      at = await at.next(ours.slice(-1));
    }
    await at.end();
    await decoder.close();
    await device.close();
    expect(Array.from((output as Tensor).data as BigInt64Array, Number)).toEqual([...prompt, ...ours]);
  });
});
