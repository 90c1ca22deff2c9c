import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readAdapter, writeAdapterHubFolder } from "../src/export/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openSafetensors, writeSafetensors } from "../src/io/safetensors.ts";
import { type Adapter, isInPlace } from "../src/methods/index.ts";
import { openModel, type PretrainedModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { type Batch, layoutOf, type TokenizedExample } from "../src/train/data/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { chooseObjectiveOf } from "./helpers/encoder-batches.ts";
import { readGolden } from "./helpers/golden.ts";

// What AdapterHub's `adapters` 1.2 wrote and computed, in float32 on a CPU (see the README of the folder).
const folder = "../shared/goldens/adapterhub";
const there = existsSync(folder);
if (!there) console.log(`adapters of AdapterHub's own are not checked: there is no ${folder}`);

interface Row {
  readonly model: "llama" | "bert" | "t5";
  readonly adapter: string;
  readonly base_loss: number;
  readonly loss: number;
  readonly trainable: number;
  readonly curve: readonly number[];
}
const { ids, rows } = there
  ? (JSON.parse(await readFile(`${folder}/expected.json`, "utf8")) as {
      readonly ids: Readonly<
        Record<"texts" | "classification" | "sources" | "targets", readonly (readonly number[])[]>
      >;
      readonly rows: readonly Row[];
    })
  : { ids: undefined, rows: [] };

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

const tokens = (row: readonly number[], trained: 0 | 1): Pick<TokenizedExample, "inputIds" | "trained"> => ({
  inputIds: Int32Array.from(row),
  trained: Uint8Array.from(row, (_, i) => (i > 0 ? trained : 0)),
});

/** All that was fed, as one batch. */
function batchFor(model: PretrainedModel, kind: Row["model"]): Batch {
  const { texts = [], classification = [], sources = [], targets = [] } = ids ?? {};
  const examples = {
    llama: texts.map((row, i): TokenizedExample => ({ ...tokens(row, 1), line: i + 1 })),
    bert: classification.map((row, i): TokenizedExample => ({ ...tokens(row, 0), answers: [i], line: i + 1 })),
    t5: sources.map((row, i): TokenizedExample => {
      return { ...tokens(row, 0), against: [tokens(targets[i] ?? [], 1)], line: i + 1 };
    }),
  };
  return chooseObjectiveOf(model).objective.batch(examples[kind], layoutOf(model, 0));
}

/** A folder in memory; T5's with the slow rule that AdapterHub left out, where it has one. */
async function complete(row: Row): Promise<ReturnType<typeof memoryStorage>> {
  const storage = memoryStorage();
  const path = `${folder}/${row.model}-${row.adapter}`;
  for (const file of ["adapter_config.json", "adapter.safetensors"]) {
    await storage.write(`in/${file}`, await readFile(`${path}/${file}`));
  }
  const rule = row.model === "t5" ? (await readGolden("adapterhub-t5-rules.safetensors")).get(row.adapter) : undefined;
  if (rule) {
    const { tensors } = await openSafetensors(nodeStorage, `${path}/adapter.safetensors`);
    const entries = [...tensors].map(([name, tensor]) => ({ name, tensor }));
    await writeSafetensors(storage, "in/adapter.safetensors", [
      ...entries,
      { name: "shared_parameters.a.phm_rule", tensor: rule },
    ]);
  }
  return storage;
}

/** The adapter with what is trained beside it, as AdapterHub trains a head of the model's own. */
async function withHead(model: PretrainedModel, adapter: Adapter): Promise<Adapter> {
  if (!model.labels) return adapter;
  const inPlace = { modules: ["classifier"], biases: "none" } as const;
  const parameters = new Map(adapter.parameters);
  for (const [name, weight] of model.weights) {
    if (isInPlace(inPlace, name.slice(0, name.lastIndexOf(".")))) parameters.set(name, await weight.source.read());
  }
  return { ...adapter, choice: { ...adapter.choice, inPlace }, parameters };
}

describe.skipIf(!there)("adapters that AdapterHub wrote", () => {
  it("are fifteen, of three models", () => {
    expect(rows).toHaveLength(15);
  });

  it.each(rows)("$model with $adapter: losses, ten updates of AdamW, and the same files", async (row) => {
    const model = await openModel(nodeStorage, `${folder}/${row.model}`);
    const storage = await complete(row);
    const read = await readAdapter(storage, "in", model);
    const adapter = await withHead(model, read);
    const batch = batchFor(model, row.model);
    const trainer = await openTrainer(device, model, {
      ...{ choice: adapter.choice, targets: adapter.targets, objective: chooseObjectiveOf(model) },
      ...{ optimizer: chooseOptimizer("adamw", { weightDecay: 0 }), maxGradNorm: 0, memory: "balanced" },
      ...{ accumulates: false, seed: 0 },
    });
    await trainer.load(adapter.parameters);
    const sizes = trainer.trainables.map(({ value }) => value.shape.map(Number).reduce((a, b) => a * b, 1));
    expect(sizes.reduce((a, b) => a + b, 0)).toBe(row.trainable);
    const losses: number[] = [];
    for (let step = 1; step <= row.curve.length; step++) losses.push((await trainer.step(step, [batch], 5e-3)).loss);
    await trainer.close();
    const worst = (found: readonly number[], expected: readonly number[]): number =>
      Math.max(...expected.map((loss, i) => Math.abs((found[i] ?? Number.NaN) - loss) / loss));
    expect(worst(losses.slice(0, 1), [row.loss])).toBeLessThan(1e-6);
    expect(worst(losses, row.curve)).toBeLessThan(1e-6);

    // Written again: the same config to the byte, the same names, shapes and values.
    await writeAdapterHubFolder(storage, "out", model, read, { baseModel: "another" });
    const text = async (path: string): Promise<string> => new TextDecoder().decode(await storage.read(path));
    expect(await text("out/adapter_config.json")).toBe(await text("in/adapter_config.json"));
    const [before, after] = await Promise.all(
      ["in", "out"].map(async (at) => (await openSafetensors(storage, `${at}/adapter.safetensors`)).tensors),
    );
    expect(new Set(after?.keys())).toEqual(new Set(before?.keys()));
    for (const [name, tensor] of before ?? [])
      expect(await after?.get(name)?.read(), name).toEqual(await tensor.read());
  });

  it.each(rows.filter(({ model, adapter }) => model === "t5" && /compacter|phm/.test(adapter)))(
    "$model with $adapter is refused as it was saved, without the rule that it needs",
    async ({ model: name, adapter }) => {
      const model = await openModel(nodeStorage, `${folder}/${name}`);
      await expect(readAdapter(nodeStorage, `${folder}/${name}-${adapter}`, model)).rejects.toMatchObject({
        code: "adapterhub-bad-adapter",
        message: expect.stringMatching(
          /^the shared phm_rule is missing. AdapterHub does not save it with T5ForConditionalGeneration/,
        ),
        fix: expect.stringContaining("shared_parameters.<name>.phm_rule"),
      });
    },
  );
});
