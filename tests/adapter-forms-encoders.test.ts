import { readdir } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import { exportForms, readAdapter } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { type Adapter, attach } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { outputOf, relativeError } from "./helpers/encoder-batches.ts";
import { golden, readGolden } from "./helpers/golden.ts";

/*
 * Plain LoRA adapters that PEFT wrote for models that do not continue texts, brought to every other form and back: what is
 * computed stays what it was, or the form refuses them.
 */

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const names = (await readdir(golden("encoders")))
  .filter((name) => name.endsWith(".adapter"))
  .map((name) => name.slice(0, -".adapter".length));
const forms = Object.entries(exportForms).flatMap(([form, { holds }]) => (holds === "adapter" ? [form] : []));

/** Forms that such adapters have none of, and what they say. */
const refused: Readonly<Record<string, string>> = {
  mlx: "mlx-lm has no adapters for",
  adapterhub: "AdapterHub has no form for lora",
  "gguf-lora": "llama.cpp has no",
  scales: "Only tuned scales of a packed model",
  packed: "Only tuned scales of a packed model",
};

async function said(
  model: PretrainedModel,
  adapter: Adapter | undefined,
  inputs: ReadonlyMap<string, Tensor>,
): Promise<Tensor> {
  const { inputs: read, outputs } = model.predict();
  if (adapter === undefined) return outputOf(device, { inputs: read, outputs }, inputs);
  const { outputModule } = model.architecture;
  const adapted = attach(outputs, { ...adapter, outputModule, training: false });
  for (const [buffer, values] of adapter.parameters) await device.upload(buffer, values);
  return outputOf(device, { inputs: read, outputs: adapted.outputs }, inputs);
}

describe.each(names)("%s", (name) => {
  it.each(forms)("as %s", async (form) => {
    const record = exportForms[form as keyof typeof exportForms];
    if (record.holds !== "adapter") throw new Error(`${form} holds no adapter`);
    const model = await openModel(nodeStorage, golden(`encoders/${name}`));
    const inputs = await readGolden(`encoders/${name}.expected.safetensors`);
    const adapter = await readAdapter(nodeStorage, golden(`encoders/${name}.adapter`), model);
    expect(adapter.choice.method.name).toBe("lora");
    const storage = memoryStorage();
    const written = await record.write(storage, "out", model, adapter, { baseModel: "base", dtypes: [] }).then(
      () => undefined,
      (error: unknown) => error,
    );
    const why = refused[form];
    if (why !== undefined) {
      expect(written).toBeInstanceOf(TuneError);
      expect(written).toMatchObject({ message: expect.stringContaining(why) });
      return;
    }
    if (written !== undefined) throw written;
    const expected = await said(model, adapter, inputs);
    const found = await said(model, await readAdapter(storage, "out", model), inputs);
    expect(relativeError(found, expected, inputs)).toBeLessThan(1e-6);
    expect(relativeError(expected, await said(model, undefined, inputs), inputs)).toBeGreaterThan(1e-3);
  });
});
