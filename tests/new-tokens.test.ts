import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mergeAdapter, readAdapter, writeAdapter, writeSafetensorsFolder } from "../src/export/index.ts";
import { openDecoder } from "../src/generate/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openSafetensors } from "../src/io/safetensors.ts";
import type { Adapter } from "../src/methods/index.ts";
import { openModel, type PretrainedModel, withVocabulary } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { golden, readGolden } from "./helpers/golden.ts";
import { waveAdapter } from "./helpers/wave-adapter.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Scores after the last token of each row, [rows × vocab]. */
async function lastLogits(model: PretrainedModel, rows: readonly number[][], adapter?: Adapter): Promise<number[]> {
  const decoder = await openDecoder(device, model, adapter);
  const at = await decoder.start(rows);
  const logits = at.logits.flatMap((scores) => [...scores]);
  await at.end();
  await decoder.close();
  return logits;
}

/** The rows of [batch, seq] ids, and the last scores of [batch, seq, vocab] logits. */
function expectedOf(file: ReadonlyMap<string, Tensor>): { readonly rows: number[][]; readonly logits: number[] } {
  const { shape, data } = file.get("logits") as Tensor;
  const [batch = 0, seq = 0, vocab = 0] = shape;
  const ids = Array.from((file.get("input_ids") as Tensor).data, Number);
  const each = Array.from({ length: batch }, (_, i) => i);
  return {
    rows: each.map((i) => ids.slice(i * seq, (i + 1) * seq)),
    logits: each.flatMap((i) => Array.from(data.slice((i * seq + seq - 1) * vocab, (i + 1) * seq * vocab), Number)),
  };
}

function difference(a: readonly number[], b: readonly number[]): number {
  expect(a).toHaveLength(b.length);
  return Math.max(...a.map((x, i) => Math.abs(x - (b[i] ?? 0)))) / Math.max(...b.map(Math.abs));
}

describe("PEFT's adapters with trained tokens", () => {
  it.each([
    ["peft-tokens", "llama-tiny", 64],
    ["peft-tokens-tied", "llama-rope", 64],
    ["peft-tokens-gpt2", "gpt2-tiny", 64],
    ["peft-tokens-grown", "llama-tiny", 67],
    ["peft-tokens-grown-tied", "llama-rope", 67],
    ["peft-grown-tied", "llama-rope", 67],
    ["peft-grown-whole", "llama-tiny", 67],
  ])("%s has PEFT's logits, written again and merged too", async (folder, base, vocabSize) => {
    const model = withVocabulary(await openModel(nodeStorage, golden(base)), vocabSize);
    const adapter = await readAdapter(nodeStorage, golden(folder), model);
    const { rows, logits } = expectedOf(await readGolden(`${folder}.expected.safetensors`));
    expect(difference(await lastLogits(model, rows, adapter), logits)).toBeLessThan(1e-5);

    const storage = memoryStorage();
    await writeAdapter(storage, "adapter", model, adapter, { baseModel: base });
    const again = await readAdapter(storage, "adapter", model);
    expect(again.choice.inPlace?.tokens).toEqual(
      adapter.choice.inPlace?.tokens &&
        Object.fromEntries(Object.entries(adapter.choice.inPlace.tokens).map(([module, ids]) => [module, ids])),
    );
    expect(again.parameters).toEqual(adapter.parameters);

    const merged = mergeAdapter(device, model, adapter);
    await writeSafetensorsFolder(storage, "merged", merged.model, { baseModel: base });
    await merged.close();
    const opened = await openModel(storage, "merged");
    expect(opened.sizes.vocabSize).toBe(vocabSize);
    expect(difference(await lastLogits(opened, rows), logits)).toBeLessThan(1e-5);
  });

  it.each([
    ["scion-tokens", "llama-tiny"],
    ["scion-tokens-tied", "llama-rope"],
  ])("%s: PEFT computes the same with what we write", async (folder, base) => {
    const model = withVocabulary(await openModel(nodeStorage, golden(base)), 66);
    const adapter = waveAdapter(model, [3, 64, 65]);
    const storage = memoryStorage();
    await writeAdapter(storage, "out", model, adapter, { baseModel: base });
    for (const name of ["adapter_config.json", "adapter_model.safetensors"])
      expect(await storage.read(`out/${name}`), name).toEqual(await nodeStorage.read(golden(`${folder}/${name}`)));
    const { rows, logits } = expectedOf(await readGolden(`${folder}.expected.safetensors`));
    expect(difference(await lastLogits(model, rows, adapter), logits)).toBeLessThan(1e-5);
  });

  it("hold the rows alone, not the embeddings", async () => {
    const model = withVocabulary(await openModel(nodeStorage, golden("llama-rope")), 67);
    const adapter = await readAdapter(nodeStorage, golden("peft-tokens-grown-tied"), model);
    expect(adapter.choice.inPlace).toEqual({
      modules: [],
      biases: "none",
      tokens: { "model.embed_tokens": [64, 65, 66] },
    });
    const storage = memoryStorage();
    await writeAdapter(storage, "adapter", model, adapter, { baseModel: "llama-rope" });
    const { tensors } = await openSafetensors(storage, "adapter/adapter_model.safetensors");
    expect([...tensors].filter(([name]) => !name.includes("lora_")).map(([name, { shape }]) => [name, shape])).toEqual([
      ["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", [3, 32]],
    ]);
  });
});
