import { afterAll, beforeAll, expect, it } from "vitest";
import { graph, parameter, type Tensor } from "../src/graph/index.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { reference } from "../src/ops/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { chooseObjective } from "../src/train/objectives/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { evaluate } from "../src/transforms/index.ts";
import { golden, readGolden } from "./helpers/golden.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

it.each([
  ["contrastive", "texts"],
  ["cosine", "scored-texts"],
] as const)("the %s loss of sentence embeddings and its gradients are torch's", async (name, kind) => {
  const expected = await readGolden("embeddings.expected.safetensors");
  const model = await openModel(nodeStorage, golden("encoders/bert-base"), { task: "sentence-embedding" });
  const objective = chooseObjective(name, {}, kind);
  const trainer = await openTrainer(device, model, {
    ...{ choice: chooseMethod("full"), targets: "all-linear", objective, optimizer: chooseOptimizer("adamw") },
    ...{ maxGradNorm: 0, memory: "balanced", accumulates: true, seed: 0 },
  });
  const sequence = (key: string): Pick<TokenizedExample, "inputIds" | "trained"> => {
    const inputIds = Int32Array.from((expected.get(key) as Tensor).data as BigInt64Array, Number); // ids are int64
    return { inputIds, trained: new Uint8Array(inputIds.length) };
  };
  const examples = Array.from({ length: 5 }, (_, i): TokenizedExample => {
    const answers = [Number(expected.get("scores")?.data[i])];
    return { ...sequence(`first.${i}`), against: [sequence(`second.${i}`)], answers, line: i + 1 };
  });
  const batch = objective.objective.batch(examples, { padId: 0, feed: model.reads.feed });
  // An update at rate zero leaves the gradients of the batch in their buffers.
  const { loss, measures } = await trainer.step(1, [batch], 0);
  expect(loss).toBeCloseTo(Number(expected.get(name)?.data[0]), 5);
  if (name === "contrastive") expect(measures["nearest"]).toBe(Number(expected.get("nearest")?.data[0]));
  const state = await trainer.state();
  await trainer.close();
  const gradients = [...expected].filter(([key]) => key.startsWith(`${name}.`));
  expect(gradients.length).toBeGreaterThan(30);
  // A key's bias adds the same to every score of a query: its gradient is nothing but rounding, held to the largest of all.
  const largest = Math.max(...gradients.flatMap(([, { data }]) => Array.from(data as Float32Array, Math.abs)));
  for (const [key, { data }] of gradients) {
    const weight = key.slice(name.length + 1);
    const found = (state.get(`${weight}#gradient`) ?? state.get(`bert.${weight}#gradient`))?.data as Float32Array;
    const worst = Math.max(
      ...Array.from(data as Float32Array, (value, i) => Math.abs(value - (found[i] ?? Number.NaN))),
    );
    expect(worst / largest, key).toBeLessThan(1e-5);
  }
});

it("the contrastive loss multiplies cosines by its scale", () => {
  const embeddings = parameter("embeddings", "float32", [4, 2]);
  const values = [1, 0, 0.6, 0.8, 0.8, 0.6, 0, 1]; // first texts, then second ones: cosines 0.8, 0; 0.96, 0.8
  const lossAt = (similarityScale: number): number => {
    const { objective, config } = chooseObjective("contrastive", { similarityScale }, "texts");
    const { loss } = objective.loss({ tuned: { embeddings }, base: {} } as never, config); // all that it looks at
    const feeds = new Map([
      ["embeddings", reference([4, 2], values)],
      ["own", reference([2], [0, 1], "int64")],
      ["normaliser", reference([], [2])],
    ]);
    return Number(evaluate(graph({ outputs: { loss } }), feeds).get("loss")?.data[0]);
  };
  const expected = (s: number): number => (Math.log1p(Math.exp(-0.8 * s)) + Math.log1p(Math.exp(0.16 * s))) / 2;
  for (const scale of [1, 5, 20]) expect(lossAt(scale)).toBeCloseTo(expected(scale), 6);
});
