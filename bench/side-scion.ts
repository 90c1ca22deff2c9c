import { createInterface } from "node:readline";
import type { tensor } from "../src/graph/index.ts";
import { readPeftAdapter } from "../src/io/peft.ts";
import { chooseMethod, lora } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import type { MemoryChoiceName } from "../src/train/memory.ts";
import { trainDefaults } from "../src/train/settings.ts";
import { openTrainer } from "../src/train/trainer.ts";
import type { Job } from "./side.ts";

/*
 * Scion's side of the benchmarks, with the protocol of `side_peft.py`:
 * node side-scion.js <model folder> <adapter folder> <threads> [<memory choice>]
 */
const [folder = "", adapterFolder = "", threads = "1", memory = trainDefaults.memory] = process.argv.slice(2);
const model = await openModel(nodeStorage, folder);
const layout = lora.peft;
if (!layout) throw new Error("LoRA has a PEFT form");
const adapter = await readPeftAdapter(nodeStorage, adapterFolder, [layout]);
const device = await openNodeDevice({ worker: false, threads: Number(threads) });
const trainer = await openTrainer(device, model, {
  choice: chooseMethod("lora", { rank: Number(adapter.config["r"]), alpha: Number(adapter.config["lora_alpha"]) }),
  targets: "all-linear",
  optimizer: chooseOptimizer("adamw"),
  maxGradNorm: 1,
  memory: memory as MemoryChoiceName, // checked by the benchmark
  accumulates: false,
  seed: 0,
});
const initial = new Map<string, ReturnType<typeof tensor>>();
for (const { value, module, key } of trainer.trainables) {
  const lazy = adapter.tensors.get(module)?.[key];
  if (lazy) initial.set(value.name, await lazy.read());
}
await trainer.load(initial);

let step = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line) as Job; // our own line
  const started = performance.now();
  const examples = job.examples.map(({ ids, prompt }) => ({
    inputIds: Int32Array.from(ids),
    trained: Uint8Array.from(ids, (_, i) => Number(i >= prompt)),
    line: 1,
  }));
  const batch = makeBatch(examples, { padId: 0, hiddenSize: model.sizes.hiddenSize });
  const { loss, gradNorm } = await trainer.step(++step, [batch], job.learning_rate);
  const ms = performance.now() - started;
  const peakBytes = 1024 * process.resourceUsage().maxRSS;
  const computed = batch.feeds.input_ids.data.length;
  console.log(JSON.stringify({ ms, loss, grad_norm: gradNorm, peak_bytes: peakBytes, computed_tokens: computed }));
}
await trainer.close();
await device.close();
