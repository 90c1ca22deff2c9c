import { createInterface } from "node:readline";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import type { MemoryChoiceName } from "../src/train/memory.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { methodRows } from "./method-rows.ts";
import type { Job } from "./side.ts";

/*
 * One method's side of the benchmark of methods, with the protocol of `side_peft.py`:
 * node side-method.js <model folder> <row> <rank> <threads> <memory choice>
 */
const [folder = "", name = "", rank = "8", threads = "1", memory = "balanced"] = process.argv.slice(2);
const row = methodRows[name];
if (!row) throw new Error(`there is no row ${name}`);
const model = await openModel(nodeStorage, folder);
const device = await openNodeDevice({ worker: false, threads: Number(threads) });
const trainer = await openTrainer(device, model, {
  choice: row.choice(Number(rank)),
  targets: row.targets,
  optimizer: chooseOptimizer("adamw"),
  maxGradNorm: 1,
  memory: memory as MemoryChoiceName, // checked by the benchmark
  ...(row.baseWeights ? { baseWeights: row.baseWeights } : {}),
  accumulates: false,
  seed: 0,
  steps: 10_000,
});
let step = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line) as Job; // our own line
  const started = performance.now();
  const examples = job.examples.map(({ ids }) => ({
    inputIds: Int32Array.from(ids),
    trained: new Uint8Array(ids.length).fill(1),
    line: 1,
  }));
  const batch = makeBatch(examples, { padId: 0, hiddenSize: model.sizes.hiddenSize });
  const { loss } = await trainer.step(++step, [batch], job.learning_rate);
  const ms = performance.now() - started;
  const computed = batch.feeds["input_ids"]?.data.length;
  console.log(
    JSON.stringify({ ms, loss, peak_bytes: 1024 * process.resourceUsage().maxRSS, computed_tokens: computed }),
  );
}
await trainer.close();
await device.close();
