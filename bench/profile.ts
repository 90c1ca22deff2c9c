import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRng } from "../src/linalg/index.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { shapeOf, writeInputs } from "./inputs.ts";
import { type BarChart, drawBars } from "./profile-picture.ts";

/*
 * Where a LoRA step's time goes, by operator and by part of the model, from ONNX Runtime's own profile.
 *   npm run profile -- [--shape llama8|smollm2] [--tokens 512] [--threads 2] [--steps 5] [--picture profile.svg]
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "llama8" },
    tokens: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    steps: { type: "string", default: "5" },
    picture: { type: "string" },
  },
});
const steps = Number(values.steps);
const shape = shapeOf(values.shape);

interface Event {
  readonly op: string;
  readonly part: string;
  readonly ms: number;
  readonly outputBytes: number;
}

const folder = await mkdtemp(join(tmpdir(), "scion-profile-"));
try {
  await writeInputs(folder, shape);
  await trainSteps();
  const events = await readProfile();
  const total = sum(events, ({ ms }) => ms);
  console.log(
    `${shape.title}; ${values.tokens} tokens, ${values.threads} threads: ${total.toFixed(1)} ms a step in operators\n`,
  );
  const byOp = table("operator", events, ({ op }) => op, total);
  const byPart = table("part of the model", events, ({ part }) => part, total);
  const products = sum(
    events.filter(({ op }) => /Gemm|MatMul/.test(op)),
    ({ ms }) => ms,
  );
  console.log(`matrix products: ${((100 * products) / total).toFixed(1)} % of the step`);
  if (values.picture)
    await writeFile(values.picture, drawBars(`${shape.title}: ${total.toFixed(0)} ms a step`, [byOp, byPart]));
} finally {
  await rm(folder, { recursive: true });
}

async function trainSteps(): Promise<void> {
  const device = await openNodeDevice({ worker: false, threads: Number(values.threads) });
  const profiling: Device = {
    provider: device.provider,
    compile: (source) => device.compile({ ...source, tuning: { ...source.tuning, profile: join(folder, "profile") } }),
    run: (request) => device.run(request),
    upload: (name, tensor) => device.upload(name, tensor),
    download: (name) => device.download(name),
    discard: (names) => device.discard(names),
    release: (program) => device.release(program),
    close: () => device.close(),
  };
  const trainer = await openTrainer(profiling, await openModel(nodeStorage, join(folder, "model")), {
    choice: chooseMethod("lora", { rank: shape.rank, alpha: 16 }),
    targets: "all-linear",
    optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
    maxGradNorm: 1,
    memory: "balanced",
    accumulates: false,
    seed: 0,
  });
  for (let step = 1; step <= steps + 1; step++) {
    const rng = createRng(step, "ids");
    const inputIds = Int32Array.from({ length: Number(values.tokens) }, () => rng.integer(shape.config.vocab_size));
    const example = { inputIds, trained: new Uint8Array(inputIds.length).fill(1), line: 1 };
    await trainer.step(step, [makeBatch([example], { padId: 0 })], 1e-3);
  }
  await trainer.close();
  await device.close();
}

/** The kernels of all steps but the first, each step's share. */
async function readProfile(): Promise<Event[]> {
  const file = (await readdir(folder)).find((name) => name.startsWith("profile"));
  if (file === undefined) throw new Error("ONNX Runtime wrote no profile");
  interface Raw {
    readonly cat: string;
    readonly name: string;
    readonly dur: number;
    readonly ts: number;
    readonly args: { readonly op_name?: string; readonly output_size?: string };
  }
  const raw = JSON.parse(await readFile(join(folder, file), "utf8")) as Raw[]; // ONNX Runtime's own file
  const runs = raw.filter(({ name }) => name === "model_run").sort((a, b) => a.ts - b.ts);
  const measured = (runs[0]?.ts ?? 0) + (runs[0]?.dur ?? 0);
  return raw
    .filter(({ cat, name, ts }) => cat === "Node" && name.endsWith("_kernel_time") && ts > measured)
    .map(({ name, dur, args }) => ({
      op: args.op_name ?? "?",
      part: partOf(name.slice(0, -"_kernel_time".length)),
      ms: dur / 1000 / steps,
      outputBytes: Number(args.output_size ?? 0) / steps,
    }));
}

/** `model.layers.3.mlp.up_proj/grad/Gemm_4` is part of `layers · mlp.up_proj, backward`. */
function partOf(name: string): string {
  const [scope = ""] = name.split("/");
  const module = scope.replace(/^model\.layers\.\d+/, "layers ·").replace("layers ·.", "layers · ");
  if (/^next |#/.test(name) || scope === "" || !/^(model|lm_head|mask|rotary)/.test(scope))
    return "loss, clipping and optimiser";
  return `${module}${name.includes("/grad") ? ", backward" : ""}`;
}

function sum(events: readonly Event[], of: (event: Event) => number): number {
  return events.reduce((total, event) => total + of(event), 0);
}

function table(title: string, events: readonly Event[], key: (event: Event) => string, total: number): BarChart {
  const groups = new Map<string, Event[]>();
  for (const event of events) groups.set(key(event), [...(groups.get(key(event)) ?? []), event]);
  const rows = [...groups]
    .map(([label, own]) => ({
      label,
      ms: sum(own, ({ ms }) => ms),
      calls: own.length / steps,
      megabytes: sum(own, ({ outputBytes }) => outputBytes) / 1e6,
    }))
    .sort((a, b) => b.ms - a.ms);
  const shown = rows.filter(({ ms }) => ms > total / 200);
  console.log(`${title.padEnd(44)}   ms a step    share   calls   MB written`);
  for (const { label, ms, calls, megabytes } of shown) {
    console.log(
      `${label.padEnd(44)} ${ms.toFixed(1).padStart(11)} ${((100 * ms) / total).toFixed(1).padStart(7)} % ${calls.toFixed(0).padStart(6)} ${megabytes.toFixed(1).padStart(12)}`,
    );
  }
  console.log("");
  return { title, rows: shown, total };
}
