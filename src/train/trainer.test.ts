import { expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { chooseMethod } from "../methods/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { makeBatch } from "./data/index.ts";
import { meanLoss, openEvaluator } from "./evaluator.ts";
import { openTrainer } from "./trainer.ts";

it.each(["lora", "dora"])("evaluates %s in the training program with dropout off", async (method) => {
  const device = await openNodeDevice({ worker: false, threads: 1 });
  const model = await randomModel();
  const choice = chooseMethod(method, { rank: 4, dropout: 0.5 });
  const targets = "all-linear";
  const optimizer = chooseOptimizer("adamw");
  const settings = { maxGradNorm: 1, memory: "balanced", accumulates: false, seed: 1 } as const;
  const trainer = await openTrainer(device, model, { choice, targets, optimizer, ...settings });
  const batch = makeBatch(randomExamples(6), { padId: 0 });
  for (let step = 1; step <= 3; step++) await trainer.step(step, [batch], 1e-2);

  const measured = await trainer.evaluate([batch]);
  expect(await trainer.evaluate([batch])).toEqual(measured);
  const apart = await openEvaluator(device, model, { adapter: await trainer.adapter() });
  expect(measured.loss).toBeCloseTo((await meanLoss(apart, [batch])).loss, 5);
  await apart.close();
  await trainer.close();
  await device.close();
});

it.each([
  ["lora", { rank: 4, init: "pissa", rslora: true }, { rank: { q_proj: 3 }, alpha: { down_proj: 5 } }],
  ["lora", { rank: 4, init: "olora" }, {}],
  ["dora", { rank: 4, init: "pissa" }, {}],
])("a finished %s of %j stands beside the whole weights", async (method, options, patterns) => {
  const device = await openNodeDevice({ worker: false, threads: 1 });
  const model = await randomModel();
  const choice = chooseMethod(method, options, patterns);
  const optimizer = chooseOptimizer("adamw");
  const settings = { maxGradNorm: 1, memory: "balanced", accumulates: false, seed: 1 } as const;
  const trainer = await openTrainer(device, model, { choice, targets: "all-linear", optimizer, ...settings });
  const batch = makeBatch(randomExamples(6), { padId: 0 });
  const plain = await openEvaluator(device, model);
  const before = await meanLoss(plain, [batch]);
  // Whatever A and B start as, training starts at the base model.
  const first = await trainer.step(1, [batch], 1e-2);
  expect(first.loss).toBeCloseTo(before.loss, 5);
  for (let step = 2; step <= 4; step++) await trainer.step(step, [batch], 1e-2);
  const adapter = await trainer.adapter();
  expect(adapter.choice.config).toMatchObject({ init: "kaiming", rank: 8 });
  const apart = await openEvaluator(device, model, { adapter });
  const { loss } = await trainer.evaluate([batch]);
  expect((await meanLoss(apart, [batch])).loss).toBeCloseTo(loss, 5);
  expect(Math.abs(loss - before.loss)).toBeGreaterThan(1e-3);
  for (const open of [plain, apart, trainer]) await open.close();
  await device.close();
});
