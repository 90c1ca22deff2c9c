import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRng } from "../src/linalg/index.ts";
import { openModel } from "../src/models/index.ts";
import { findOp } from "../src/ops/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { liveMemory } from "../src/plan/memory.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeBatch } from "../src/train/data/index.ts";
import type { MemoryChoiceName } from "../src/train/memory.ts";
import { buildTraining } from "../src/train/step.ts";
import { openTrainer } from "../src/train/trainer.ts";
import type { BenchShape } from "./inputs.ts";
import type { MethodRow } from "./method-rows.ts";

/** What one operator of a step took, or what it gave that was alive when most was. */
export interface Use {
  readonly op: string;
  /** The module it belongs to, layers taken together. */
  readonly part: string;
  /** Milliseconds, or bytes. */
  readonly amount: number;
}

/** Where the time and the memory of a step went. */
export interface StepProfile {
  /** A step's operators by ONNX Runtime's own profile, in milliseconds: the mean over steps. */
  readonly time: readonly Use[];
  /** What was alive when most was, in bytes, weights and parameters left out. */
  readonly memory: readonly Use[];
  /** Share of the operators' time that matrix products took. */
  readonly productShare: number;
  /** Bytes of the forward pass that were kept for the backward pass. */
  readonly savedBytes: number;
}

/** Profile `steps` steps, after one to warm up, of the model in `<folder>/model`. */
export async function profileStep(
  folder: string,
  { config, rank }: BenchShape,
  options: {
    readonly row: MethodRow;
    readonly tokens: number;
    readonly threads: number;
    readonly memory: MemoryChoiceName;
    readonly steps: number;
  },
): Promise<StepProfile> {
  const { row, tokens, threads, memory, steps } = options;
  const model = await openModel(nodeStorage, join(folder, "model"));
  const settings = {
    choice: row.choice(rank),
    targets: row.targets,
    ...(row.baseWeights ? { baseWeights: row.baseWeights } : {}),
    optimizer: chooseOptimizer("adamw"),
    maxGradNorm: 1,
    memory,
    accumulates: false,
  } as const;
  const batchOf = (step: number): ReturnType<typeof makeBatch> => {
    const rng = createRng(step, "ids");
    const inputIds = Int32Array.from({ length: tokens }, () => rng.integer(config.vocab_size));
    return makeBatch([{ inputIds, trained: new Uint8Array(tokens).fill(1) }], { padId: 0 });
  };
  const written = await mkdtemp(join(tmpdir(), "scion-profile-"));
  try {
    const device = await openNodeDevice({ worker: false, threads });
    const trainer = await openTrainer(profiled(device, join(written, "profile")), model, {
      ...settings,
      seed: 0,
      steps: 10_000,
    });
    for (let step = 1; step <= steps + 1; step++) await trainer.step(step, [batchOf(step)], 1e-3);
    await trainer.close();
    await device.close();
    const time = await readProfile(written, steps);
    const { graph, savedBytes } = buildTraining(model, { ...settings, patches: true }).gradient;
    const { atPeak } = liveMemory(graph, batchOf(1).sizes);
    return {
      time,
      memory: atPeak.flatMap(({ value, bytes }) =>
        value.kind === "result" ? [{ op: value.node.op, part: partOf(value.node.scope), amount: bytes }] : [],
      ),
      productShare: total(time.filter(({ op }) => findOp("", op)?.contraction)) / total(time),
      savedBytes,
    };
  } finally {
    await rm(written, { recursive: true });
  }
}

/** Sum of amounts. */
export function total(uses: readonly Use[]): number {
  return uses.reduce((sum, { amount }) => sum + amount, 0);
}

/** The device, with programs that write ONNX Runtime's profile. */
function profiled(device: Device, profile: string): Device {
  return {
    provider: device.provider,
    patches: device.patches === true,
    compile: (source) => device.compile({ ...source, tuning: { ...source.tuning, profile } }),
    run: (request) => device.run(request),
    upload: (name, tensor) => device.upload(name, tensor),
    download: (name) => device.download(name),
    discard: (names) => device.discard(names),
    release: (program) => device.release(program),
    close: () => device.close(),
  };
}

/** The kernels of all runs but the first, each run's share. */
async function readProfile(folder: string, steps: number): Promise<Use[]> {
  const file = (await readdir(folder)).find((name) => name.startsWith("profile"));
  if (file === undefined) throw new Error("ONNX Runtime wrote no profile");
  interface Raw {
    readonly cat: string;
    readonly name: string;
    readonly dur: number;
    readonly ts: number;
    readonly args: { readonly op_name?: string };
  }
  const raw = JSON.parse(await readFile(join(folder, file), "utf8")) as Raw[]; // ONNX Runtime's own file
  const runs = raw.filter(({ name }) => name === "model_run").sort((a, b) => a.ts - b.ts);
  const measured = (runs[0]?.ts ?? 0) + (runs[0]?.dur ?? 0);
  return raw
    .filter(({ cat, name, ts }) => cat === "Node" && name.endsWith("_kernel_time") && ts > measured)
    .map(({ name, dur, args }) => ({
      op: args.op_name ?? "?",
      part: partOf(name.slice(0, name.lastIndexOf("/"))),
      amount: dur / 1000 / steps,
    }));
}

/** A scope such as `model.layers.3.mlp.up_proj/grad` is part of `layers · mlp.up_proj, backward`. */
function partOf(scope: string): string {
  const [module = ""] = scope.split("/");
  if (!/^(model|lm_head|mask|rotary)/.test(module)) return "loss, clipping and optimiser";
  const part = module.replace(/^model\.layers\.\d+\.?/, "layers · ").replace(/ · $/, "");
  return `${part}${scope.includes("/grad") ? ", backward" : ""}`;
}
