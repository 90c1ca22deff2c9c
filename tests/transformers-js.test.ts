import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { env, pipeline, type TextGenerationPipeline } from "@huggingface/transformers";
import { afterAll, describe, expect, it } from "vitest";
import { writeTransformersJsFolder } from "../src/export/index.ts";
import { openModel } from "../src/models/index.ts";
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
