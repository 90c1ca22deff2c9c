import { createInterface } from "node:readline";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { newKey, openGenerator } from "../src/privacy/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import type { Job } from "./side.ts";

/*
 * A LoRA step as `scion tune` makes it, private or not, with the protocol of `bench/side_peft.py`:
 * node side-dp.js <model folder> <plain|private> <rank> <threads>
 */
const [folder = "", kind = "plain", rank = "8", threads = "1"] = process.argv.slice(2);
const isPrivate = kind === "private";
const model = await openModel(nodeStorage, folder);
const device = await openNodeDevice({ threads: Number(threads) });
const trainer = await openTrainer(device, model, {
  choice: chooseMethod("lora", { rank: Number(rank), alpha: 16 }),
  targets: "all-linear",
  optimizer: chooseOptimizer("adamw"),
  maxGradNorm: isPrivate ? 0 : 1,
  memory: "balanced",
  accumulates: isPrivate,
  ...(isPrivate ? { privacy: {} } : {}),
  seed: 0,
});
const generator = openGenerator(newKey());

let step = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line) as Job; // our own line
  const started = performance.now();
  const examples = job.examples.map(({ ids, prompt }) => ({
    inputIds: Int32Array.from(ids),
    trained: Uint8Array.from(ids, (_, i) => Number(i >= prompt)),
    line: 1,
  }));
  const batch = makeBatch(examples, {
    padId: 0,
    ...(isPrivate ? { alone: true } : { hiddenSize: model.sizes.hiddenSize }),
  });
  const privacy = { clip: 1, noiseMultiplier: 1, expectedBatch: examples.length, generator, purpose: "bench" };
  const { loss, gradNorm } = await trainer.step(++step, [batch], job.learning_rate, isPrivate ? privacy : undefined);
  const ms = performance.now() - started;
  const peakBytes = 1024 * process.resourceUsage().maxRSS;
  const computed = batch.feeds.input_ids.data.length;
  console.log(JSON.stringify({ ms, loss, grad_norm: gradNorm, peak_bytes: peakBytes, computed_tokens: computed }));
}
await trainer.close();
await device.close();
