import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { golden, readGolden } from "../../tests/helpers/golden.ts";
import { difference, lastLogits, lastOf, rowsOf } from "../../tests/helpers/logits.ts";
import type { Tensor } from "../graph/index.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { targetedByPeft } from "../io/peft-targets.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { Storage } from "../io/storage.ts";
import { openModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { mergeAdapter, readAdapter, writeAdapter, writeMlx } from "./index.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Folders of `make_trainers.py`, what is adapted and what is trained whole in each. */
const folders: readonly {
  readonly folder: string;
  readonly base?: string;
  readonly adapted: number;
  readonly whole?: readonly string[];
}[] = [
  { folder: "trl-sft", adapted: 14 },
  { folder: "trl-sft/checkpoint-2", adapted: 14 },
  { folder: "unsloth-expression", adapted: 14 },
  { folder: "unsloth-last-layer", adapted: 7 },
  { folder: "unsloth-pretraining", adapted: 3, whole: ["embed_tokens"] },
  { folder: "unsloth-pretraining-tied", base: "llama-rope", adapted: 3, whole: ["embed_tokens"] },
  { folder: "unsloth-pretraining-whole", adapted: 2, whole: ["embed_tokens", "lm_head"] },
  { folder: "unsloth-embeddings", adapted: 2, whole: ["embed_tokens", "lm_head"] },
];

describe("adapters in the folders that TRL and Unsloth leave", () => {
  it.each(folders)(
    "$folder gives PEFT's logits, opens no pickle, and can be merged and written again",
    async (about) => {
      const { folder, base = "llama-tiny", adapted, whole = [] } = about;
      const model = await openModel(nodeStorage, golden(base));
      const opened = new Set<string>();
      const watched: Storage = {
        ...nodeStorage,
        read: (path, range) => {
          opened.add(path.split(/[\\/]/).at(-1) ?? path);
          return nodeStorage.read(path, range);
        },
      };
      const adapter = await readAdapter(watched, golden(folder), model);
      expect([...opened].sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);
      expect(adapter.targets).toHaveLength(adapted);
      expect([...(adapter.choice.inPlace?.modules ?? [])].sort()).toEqual(whole);

      const expected = await readGolden(`${folder.split("/")[0]}.expected.safetensors`);
      const rows = rowsOf(expected.get("input_ids") as Tensor);
      const logits = lastOf(expected.get("logits") as Tensor);
      expect(difference(await lastLogits(device, model, rows), logits)).toBeGreaterThan(1e-3);
      expect(difference(await lastLogits(device, model, rows, adapter), logits)).toBeLessThan(1e-5);
      const merged = mergeAdapter(device, model, adapter);
      expect(difference(await lastLogits(device, merged.model, rows), logits)).toBeLessThan(1e-5);
      await merged.close();

      const storage = memoryStorage();
      await writeAdapter(storage, "out", model, adapter, { baseModel: base });
      const again = await readAdapter(storage, "out", model);
      expect(again.parameters).toEqual(adapter.parameters);
    },
  );
});

it("an adapter of Unsloth on MLX says more than mlx-lm's, and is read as one", async () => {
  const model = await openModel(nodeStorage, golden("llama-tiny"));
  const adapter = await readAdapter(nodeStorage, golden("unsloth-last-layer"), model);
  const storage = memoryStorage();
  await writeMlx(storage, "in", model, adapter, { baseModel: "base" });
  const lora = { rank: 2, scale: 2, dropout: 0 };
  const config = {
    ...{ fine_tune_type: "lora", peft_type: "LORA", base_model_name_or_path: "unsloth/llama-tiny", num_layers: 2 },
    ...{ learning_rate: 2e-4, max_steps: 60, max_seq_length: 2048, use_cce: true, base_quantization_config: null },
    ...{ lora_parameters: lora, ...lora },
  };
  await storage.write("in/adapter_config.json", JSON.stringify(config));
  const read = await readAdapter(storage, "in", model);
  expect(read.parameters).toEqual(adapter.parameters);
  expect(read.choice.config).toMatchObject({ rank: 2, alpha: 4 });
});

const kinds = "(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)";
const leaves = "(?:q_proj|v_proj|down_proj)";
/** `target_modules` of versions of Unsloth, early and late: of all layers, of the language layers, and past experts. */
it.each([
  `(?:.*?(?:vision|image|visual|patch|language|text).*?${kinds}.*?${leaves}.*?)|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.${kinds}\\.(?:${leaves}))`,
  `(?:.*?(?:language|text).*?${kinds}.*?${leaves})|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.${kinds}\\.(?:${leaves}))`,
  `(?:.*?(?:language|text).*?${kinds}.*?\\.${leaves})|(?:\\bmodel\\.layers\\.[\\d]{1,}(?!.*\\.experts\\.\\d)\\..*?${kinds}.*?\\.(?:${leaves}))`,
])("an expression of Unsloth's chooses the modules that PEFT gives it: %s", (expression) => {
  const targeted = targetedByPeft({ target_modules: expression }, "lm_head", "adapter_config.json");
  const modules = [
    ...["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"],
    ...["model.layers.0.self_attn.k_proj", "model.layers.0.mlp.up_proj", "lm_head", "model.norm"],
  ];
  expect(modules.filter((module) => targeted?.(module))).toEqual(modules.slice(0, 2));
});

it("what PEFT kept of the base beside an adapted output layer has to be the model's own", async () => {
  const model = await openModel(nodeStorage, golden("llama-tiny"));
  const folder = golden("unsloth-pretraining");
  const { tensors } = await openSafetensors(nodeStorage, `${folder}/adapter_model.safetensors`);
  const storage = memoryStorage({
    "in/adapter_config.json": await nodeStorage.read(`${folder}/adapter_config.json`),
  });
  const readWith = async (change: (value: number) => number): Promise<unknown> => {
    const entries = [...tensors].map(async ([name, lazy]) => {
      const values = (await lazy.read()) as Tensor<"float32">; // as the script wrote them
      const data = name.endsWith("base_layer.weight") ? values.data.map(change) : values.data;
      return { name, tensor: { ...values, data } };
    });
    await writeSafetensors(storage, "in/adapter_model.safetensors", await Promise.all(entries));
    return readAdapter(storage, "in", model);
  };
  await readWith((value) => value * (1 + 2 ** -9)); // as one of the two that was rounded to bfloat16
  await expect(readWith((value) => 1.1 * value)).rejects.toMatchObject({
    code: "adapter-mismatch",
    message: expect.stringContaining("lm_head.weight beside the adapter is not the model's own"),
  });
});
