import { expect, it } from "vitest";
import type { Tensor } from "../src/graph/index.ts";
import { chooseMethod, initialTensor, type MethodChoice, type Trainable } from "../src/methods/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { randomExamples, randomModel } from "./helpers/tiny-model.ts";

interface Trained {
  readonly trainables: readonly Trainable[];
  readonly trainedParameters: number;
  readonly after: ReadonlyMap<string, Tensor>;
}

/** Some updates by plain SGD. */
async function train(choice: MethodChoice, updates: number): Promise<Trained> {
  const device = await openNodeDevice({ worker: false, threads: 1 });
  const optimizer = chooseOptimizer("sgd", { momentum: 0 });
  const settings = { maxGradNorm: 0, memory: "balanced", accumulates: false, seed: 1 } as const;
  const model = await randomModel();
  const trainer = await openTrainer(device, model, { choice, targets: "all-linear", optimizer, ...settings });
  const batch = makeBatch(randomExamples(6), { padId: 0 });
  for (let step = 1; step <= updates; step++) await trainer.step(step, [batch], 0.1);
  const { trainables, trainedParameters } = trainer;
  const after = await trainer.parameters();
  await trainer.close();
  await device.close();
  return { trainables, trainedParameters, after };
}

it.each(["lora", "dora"])("%s with A frozen trains B alone", async (method) => {
  const options = { rank: 4, alpha: 8 };
  const frozen = await train(chooseMethod(method, { ...options, freezeA: true }), 3);
  const plain = await train(chooseMethod(method, options), 1);
  let ofA = 0;
  for (const trainable of frozen.trainables) {
    const before = await initialTensor(trainable, 1);
    const { data } = frozen.after.get(trainable.value.name) as Tensor;
    if (trainable.key === "A") ofA += data.length;
    if (trainable.key === "A") expect([...data]).toEqual([...before.data]);
    else expect([...data]).not.toEqual([...before.data]);
  }
  expect(plain.trainedParameters - frozen.trainedParameters).toBe(ofA);

  // B starts at zero, so that A has no gradient in the first update: both do the same then.
  const first = await train(chooseMethod(method, { ...options, freezeA: true }), 1);
  for (const [name, { data }] of plain.after) expect([...data]).toEqual([...(first.after.get(name) as Tensor).data]);
});

it("a part of the weight that A starts as may stay as it is", async () => {
  const { trainables, after } = await train(chooseMethod("lora", { rank: 4, freezeA: true, init: "pissa" }), 2);
  for (const trainable of trainables.filter(({ key }) => key === "A")) {
    const before = await initialTensor(trainable, 1);
    expect([...(after.get(trainable.value.name) as Tensor).data]).toEqual([...before.data]);
  }
});

it("a rate of B as a multiple of A's is refused beside it", () => {
  expect(() => chooseMethod("lora", { freezeA: true, plusRatio: 4 })).toThrow("A is not trained (freezeA)");
});
