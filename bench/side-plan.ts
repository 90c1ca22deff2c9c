import { join } from "node:path";
import { createRng } from "../src/linalg/index.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { measureMachine } from "../src/plan/machine.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { TokenizedExample } from "../src/train/data/index.ts";
import { planRun } from "../src/train/plan.ts";
import { train } from "../src/train/run.ts";
import { resolveSettings } from "../src/train/settings.ts";
import { shapeOf, writeModel } from "./inputs.ts";
import type { PlanCase, RunMeasurement } from "./plan.bench.ts";

/*
 * One configuration, planned or trained for a few updates: node side-plan.js write|plan|train <folder> <case as JSON>
 */
const [what = "", folder = "", json = ""] = process.argv.slice(2);
const { shape, method, methodOptions, settings, lengths, validation, threads } = JSON.parse(json) as PlanCase; // our own
// Not in the process of the benchmark: on Linux a process starts with the peak of the one that started it.
if (what === "write") {
  await writeModel(folder, shapeOf(shape));
  process.exit();
}
const model = await openModel(nodeStorage, join(folder, "model"));
const [shortest, longest] = lengths;

function examples(name: string, count: number): TokenizedExample[] {
  const rng = createRng(1, name);
  return Array.from({ length: count }, () => {
    const length = shortest + rng.integer(longest - shortest + 1);
    const inputIds = Int32Array.from({ length }, () => rng.integer(model.sizes.vocabSize));
    return { inputIds, trained: Uint8Array.from(inputIds, (_, i) => Number(i >= length / 3)), line: 1 };
  });
}

const resolved = resolveSettings({ ...settings, maxSteps: 6 });
const device = await openNodeDevice({ threads });
const options = {
  device,
  model,
  choice: chooseMethod(method, methodOptions),
  targets: "all-linear" as const,
  settings: resolved,
  train: examples("train", 6 * resolved.batchSize * resolved.accumulationSteps),
  validation: examples("validation", validation),
  padId: 0,
};
if (what === "train") {
  const times: number[] = [];
  let last = performance.now();
  await train({
    ...options,
    onEvent: ({ kind }) => {
      const now = performance.now();
      if (kind === "step") times.push(now - last);
      last = now;
    },
  });
  const stepMs = times.slice(2).sort((a, b) => a - b)[1] ?? Number.NaN;
  console.log(JSON.stringify({ peakBytes: 1024 * process.resourceUsage().maxRSS, stepMs } satisfies RunMeasurement));
}
if (what === "plan") {
  const { rss } = process.memoryUsage();
  const plan = planRun(options, { machine: await measureMachine(device), processBytes: rss });
  console.log(JSON.stringify(plan));
}
await device.close();
