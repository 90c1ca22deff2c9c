import { chooseMethod } from "../../src/methods/index.ts";
import { chooseOptimizer } from "../../src/optim/index.ts";
import type { Device } from "../../src/runtime/device.ts";
import { makeBatch } from "../../src/train/data/index.ts";
import { openTrainer } from "../../src/train/trainer.ts";
import { randomExamples, randomModel, tinyLlama } from "./tiny-model.ts";

/** What is trained by {@link tinyTraining}: LoRA with dropout on a tiny Llama unless told otherwise. */
export interface TinyRun {
  readonly config?: Readonly<Record<string, unknown>>;
  readonly method?: string;
  readonly options?: Readonly<Record<string, number>>;
}

/** The losses of a few steps on a tiny model: the same program on whatever device is given. */
export async function tinyTraining(
  device: Device,
  steps: number,
  { config = tinyLlama, method = "lora", options = { rank: 4, alpha: 8, dropout: 0.1 } }: TinyRun = {},
): Promise<readonly number[]> {
  const model = await randomModel(config);
  const trainer = await openTrainer(device, model, {
    choice: chooseMethod(method, options),
    targets: "all-linear",
    optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
    maxGradNorm: 1,
    memory: "balanced",
    accumulates: false,
    seed: 3,
    steps,
  });
  const examples = randomExamples(4 * steps);
  const losses: number[] = [];
  for (let step = 1; step <= steps; step++) {
    const batch = makeBatch(examples.slice(4 * (step - 1), 4 * step), { padId: 0 });
    losses.push((await trainer.step(step, [batch], 5e-3)).loss);
  }
  await trainer.close();
  return losses;
}
