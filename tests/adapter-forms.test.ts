import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import { exportForms, readAdapter } from "../src/export/index.ts";
import type { Tensor } from "../src/graph/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { createRng } from "../src/linalg/index.ts";
import { type Adapter, attach, chooseMethod, initialTensor, methods, sublayerTargets } from "../src/methods/index.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { difference, lastLogits } from "./helpers/logits.ts";
import { randomModel } from "./helpers/tiny-model.ts";

/*
 * The law of adapters' files: whatever a form takes of a method gives the same logits when it is read again; what it does
 * not take is refused by the method's name. It walks both tables, so a new method needs a sample here and a new form its
 * line.
 */

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

/** Options of a small adapter, by method. */
const samples: Readonly<Record<string, Readonly<Record<string, number | boolean | string>>>> = {
  lora: { rank: 3, alpha: 6 },
  dora: { rank: 3, alpha: 6 },
  adalora: { initialRank: 4, targetRank: 2, alpha: 8 },
  paca: { rank: 3, alpha: 6 },
  alpha: {},
  compacter: { reduction: 4, activation: "mish" },
  "compacter++": { reduction: 4, placement: "residual", scaling: 2 },
  phm: { reduction: 4, sharedRule: true, activation: "relu" },
  bottleneck: { reduction: 4, placement: "parallel", activation: "swish", frozenNorms: true },
  full: {},
};

type Takes = (name: string) => boolean;
const lowRank: Takes = (name) => name === "lora" || methods.get(name)?.asLora !== undefined;
/** Which methods a form takes; forms that are no adapter of the plain model's own are left to their tests. */
const takes: Readonly<Record<string, Takes | "elsewhere">> = {
  peft: (name) => methods.get(name)?.peft !== undefined,
  lora: lowRank,
  mlx: (name) => lowRank(name) || name === "dora",
  adapterhub: (name) => methods.get(name)?.form === "adapterhub",
  "gguf-lora": "elsewhere", // read by llama.cpp: tests/gguf.test.ts
  scales: "elsewhere", // of packed models: src/compress/tune-scales.test.ts
  packed: "elsewhere",
};

/** An adapter of the method with all its values shaken. */
async function shaken(model: PretrainedModel, name: string): Promise<Adapter> {
  const asked = chooseMethod(name, samples[name]);
  const { choice, targets } = asked.method.sublayers
    ? sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, asked)
    : { choice: asked, targets: "all-linear" as const };
  const { outputModule } = model.architecture;
  if (name === "alpha") return { choice, targets, parameters: new Map() }; // of packed weights alone
  const { trainables } = attach(model.predict().outputs, { choice, targets, outputModule, training: false });
  const parameters = new Map<string, Tensor>();
  for (const trainable of trainables) {
    const start = await initialTensor(trainable, 3);
    const rng = createRng(5, trainable.value.name);
    const moved = (): Float32Array => Float32Array.from(Array.from(start.data, Number), (x) => x + 0.2 * rng.normal());
    const { dtype, shape } = start;
    parameters.set(trainable.value.name, dtype === "float32" ? { dtype, shape, data: moved() } : start);
  }
  return { choice, targets, parameters, steps: 10 };
}

const forms = Object.entries(exportForms).flatMap(([form, { holds }]) => (holds === "adapter" ? [form] : []));

it("has a sample of every method, and says of every form of adapters what it takes", () => {
  expect(Object.keys(samples).sort()).toEqual([...methods.keys()].sort());
  expect(Object.keys(takes).sort()).toEqual(forms.sort());
});

const pairs = [...methods.keys()].flatMap((method) =>
  forms.filter((form) => takes[form] !== "elsewhere").map((form) => [method, form] as const),
);

describe("an adapter read again gives the same logits, or is refused by its method's name", () => {
  it.each(pairs)("%s as %s", async (name, form) => {
    const model = await randomModel();
    const adapter = await shaken(model, name);
    const storage = memoryStorage();
    const record = exportForms[form as keyof typeof exportForms];
    if (record.holds !== "adapter") throw new Error(`${form} holds no adapter`);
    const write = record.write(storage, "out", model, adapter, { baseModel: "base", dtypes: [] });
    const taken = takes[form];
    if (taken === "elsewhere" || !taken?.(name)) {
      const error = await write.then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(TuneError);
      expect(error).toMatchObject({ code: "no-adapter-form", message: expect.stringContaining(name) });
      expect(await storage.list("out").catch(() => [])).toEqual([]);
      return;
    }
    await write;
    const rows = [[1, 5, 9, 33, 2]];
    const expected = await lastLogits(device, model, rows, adapter);
    const found = await lastLogits(device, model, rows, await readAdapter(storage, "out", model));
    expect(difference(found, expected)).toBeLessThan(1e-5);
    expect(difference(expected, await lastLogits(device, model, rows))).toBeGreaterThan(1e-3);
  });
});
