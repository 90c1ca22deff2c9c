import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { writeSafetensors } from "../src/io/safetensors.ts";
import { attach, linearModules } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { outputOf, relativeError } from "./helpers/encoder-batches.ts";
import { golden, readGolden } from "./helpers/golden.ts";

/*
 * What the authors' fork of PEFT saves for models that do not continue texts: `paca_w`, the trained columns divided by
 * alpha / r in the order in which they were drawn, and the head that `modules_to_save` names. Held against the model whose
 * weights have those columns and that head.
 */

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const rank = 3;
const scale = 8 / rank;
const named = [
  "bert-sequence",
  "bert-token",
  "bert-regression",
  "roberta-sequence",
  "deberta-sequence",
  "vit-image",
  "t5",
];
const taskTypes: Readonly<Record<string, string>> = { "bert-token": "TOKEN_CLS", "vit-image": "", t5: "SEQ_2_SEQ_LM" };

/** The fork's folder for a model, and the weights that it stands for. */
async function forked(
  name: string,
  model: PretrainedModel,
): Promise<{ storage: ReturnType<typeof memoryStorage>; weights: ReadonlyMap<string, Tensor> }> {
  const storage = memoryStorage();
  const files: { name: string; tensor: Tensor }[] = [];
  const weights = new Map<string, Tensor>();
  for (const [key, weight] of model.weights) weights.set(key, await weight.source.read());
  const wave = (i: number): number => 0.3 * Math.sin(1.7 * i + 0.4);
  const targets: string[] = [];
  for (const [module, site] of linearModules(model.predict().outputs)) {
    if (model.headModules.some((head) => module === head || module.startsWith(`${head}.`))) continue;
    if (site.weight.kind !== "weight" || !/(query|value|\.q|\.v|fc1|intermediate\.dense)$/.test(module)) continue;
    targets.push(module);
    const whole = weights.get(site.weight.name) as Tensor;
    const [out = 0, into = 0] = whole.shape;
    const places = [into - 1, 2, 7];
    const data = Float32Array.from(whole.data as Float32Array);
    const columns = Float32Array.from({ length: out * rank }, (_, i) => {
      const [row, place] = [Math.floor(i / rank), places[i % rank] ?? 0];
      data[row * into + place] = Number(whole.data[row * into + place]) + wave(i);
      return Number(data[row * into + place]) / scale;
    });
    weights.set(site.weight.name, { ...whole, data } as Tensor);
    files.push(
      { name: `base_model.model.${module}.paca_w`, tensor: { dtype: "float32", shape: [out, rank], data: columns } },
      {
        name: `base_model.model.${module}.paca_indices`,
        tensor: { dtype: "int64", shape: [rank], data: BigInt64Array.from(places, BigInt) },
      },
    );
  }
  for (const [key, whole] of weights) {
    if (!model.headModules.some((head) => key.startsWith(`${head}.`))) continue;
    const head = {
      ...whole,
      data: Float32Array.from(whole.data as Float32Array, (value, i) => value + wave(i)),
    } as Tensor;
    weights.set(key, head);
    files.push({ name: `base_model.model.${key}`, tensor: head });
  }
  const config = {
    ...{ alpha_pattern: {}, auto_mapping: null, base_model_name_or_path: name, bias: "none", fan_in_fan_out: false },
    ...{ gradient_accumulation_steps: 1, inference_mode: true, layer_replication: null, layers_pattern: null },
    ...{ layers_to_transform: null, megatron_config: null, megatron_core: "megatron.core" },
    modules_to_save: model.headModules.length > 0 ? model.headModules : null,
    ...{ paca_alpha: 8, peft_type: "PACA", r: rank, rank_pattern: {}, revision: null, target_modules: targets },
    task_type: (taskTypes[name] ?? "SEQ_CLS") || null,
  };
  await storage.write("fork/adapter_config.json", JSON.stringify(config));
  await writeSafetensors(storage, "fork/adapter_model.safetensors", files);
  return { storage, weights };
}

describe("adapters of the authors' fork on models that do not continue texts", () => {
  it.each(named)("%s", async (name) => {
    const inputs = await readGolden(`encoders/${name}.expected.safetensors`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const { storage, weights } = await forked(name, model);
    const adapter = await readAdapter(storage, "fork", model);
    expect(adapter.choice.method.name).toBe("paca");
    expect([...(adapter.choice.inPlace?.modules ?? [])].sort()).toEqual([...model.headModules].sort());
    const plain = model.predict();
    const { outputModule } = model.architecture;
    const { outputs, trainables } = attach(plain.outputs, { ...adapter, outputModule, training: false });
    expect(new Set(trainables.map(({ value }) => value.name))).toEqual(new Set(adapter.parameters.keys()));
    for (const [buffer, values] of adapter.parameters) await device.upload(buffer, values);
    const found = await outputOf(device, { inputs: plain.inputs, outputs }, inputs);

    await storage.write("whole/config.json", await readFile(golden(`encoders/${name}/config.json`)));
    const entries = [...weights].map(([key, tensor]) => ({ name: key, tensor }));
    await writeSafetensors(storage, "whole/model.safetensors", entries);
    const whole = await openModel(storage, "whole", { task: model.task });
    const expected = await outputOf(device, whole.predict(), inputs);
    // Float32 sums in another order over two layers.
    expect(relativeError(found, expected, inputs)).toBeLessThan(1e-5);
    expect(relativeError(found, await outputOf(device, plain, inputs), inputs)).toBeGreaterThan(1e-3);
  });
});
