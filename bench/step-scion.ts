import { createInterface } from "node:readline";
import type { tensor } from "../src/graph/index.ts";
import { readPeftAdapter } from "../src/io/peft.ts";
import { chooseMethod, lora } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { openTrainer } from "../src/train/trainer.ts";

/*
 * Scion's side of `step.bench.ts`, with the protocol of `step_peft.py`:
 * tsx step-scion.ts <model folder> <adapter folder> <threads>
 */
const [folder = "", adapterFolder = "", threads = "1"] = process.argv.slice(2);
const model = await openModel(nodeStorage, folder);
const layout = lora.peft;
if (!layout) throw new Error("LoRA has a PEFT form");
const adapter = await readPeftAdapter(nodeStorage, adapterFolder, [layout]);
const device = await openNodeDevice({ worker: false, threads: Number(threads) });
const trainer = await openTrainer(device, model, {
  choice: chooseMethod("lora", { rank: Number(adapter.config["r"]), alpha: Number(adapter.config["lora_alpha"]) }),
  targets: "all-linear",
  optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
  maxGradNorm: 1,
  memory: "balanced",
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
  const { ids, learning_rate: learningRate } = JSON.parse(line) as { ids: number[]; learning_rate: number }; // our own line
  const inputIds = Int32Array.from(ids);
  const batch = makeBatch([{ inputIds, trained: new Uint8Array(ids.length).fill(1), line: 1 }], { padId: 0 });
  const started = performance.now();
  const { loss, gradNorm } = await trainer.step(++step, [batch], learningRate);
  const ms = performance.now() - started;
  console.log(JSON.stringify({ ms, loss, grad_norm: gradNorm, peak_bytes: 1024 * process.resourceUsage().maxRSS }));
}
await trainer.close();
await device.close();
