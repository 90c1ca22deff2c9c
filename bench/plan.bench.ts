import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import type { RunPlan } from "../src/train/plan.ts";
import type { TrainSettings } from "../src/train/settings.ts";
import { compiled } from "./compiled.ts";

/*
 * What `scion plan` says against what a run then takes, each in a process of its own.
 *   npm run bench:plan -- [--only <numbers of cases>] [--json out.json]
 */

/** A configuration that is planned, then measured. */
export interface PlanCase {
  readonly shape: string;
  readonly method: string;
  readonly methodOptions: Readonly<Record<string, number>>;
  readonly settings: Partial<TrainSettings>;
  /** The shortest and the longest example, in tokens. */
  readonly lengths: readonly [number, number];
  /** Examples held back. */
  readonly validation: number;
  readonly threads: number;
}

/** What a run took. */
export interface RunMeasurement {
  readonly peakBytes: number;
  readonly stepMs: number;
}

const usual = { shape: "llama8", method: "lora", methodOptions: { rank: 8 }, validation: 0, threads: 2 } as const;
const cases: readonly PlanCase[] = [
  { ...usual, lengths: [512, 512], settings: { batchSize: 1 } },
  { ...usual, lengths: [64, 512], settings: { batchSize: 8 } },
  { ...usual, lengths: [256, 512], settings: { batchSize: 4, memory: "fast" } },
  { ...usual, lengths: [256, 512], settings: { batchSize: 4, memory: "small" } },
  { ...usual, lengths: [1024, 1024], settings: { batchSize: 2 } },
  { ...usual, method: "full", methodOptions: {}, lengths: [128, 256], settings: { batchSize: 2 } },
  {
    ...usual,
    methodOptions: { rank: 64 },
    lengths: [64, 256],
    settings: { batchSize: 4, accumulationSteps: 4 },
    validation: 16,
  },
  { ...usual, shape: "smollm2", lengths: [512, 512], settings: { batchSize: 1 } },
  { ...usual, shape: "smollm2", lengths: [64, 256], settings: { batchSize: 8, memory: "small" } },
  { ...usual, shape: "gpt2", lengths: [256, 512], settings: { batchSize: 2 } },
  { ...usual, shape: "gpt2", lengths: [64, 128], settings: { batchSize: 4, memory: "fast" }, validation: 8 },
  { ...usual, shape: "wide", lengths: [512, 1024], settings: { batchSize: 2 } },
  { ...usual, shape: "tiny", lengths: [16, 64], settings: { batchSize: 32 } },
  { ...usual, shape: "smollm2", lengths: [128, 256], settings: { batchSize: 2, baseWeights: "f16" } },
  { ...usual, shape: "smollm2", lengths: [128, 256], settings: { batchSize: 2, baseWeights: "q8" } },
  { ...usual, shape: "wide", lengths: [128, 256], settings: { batchSize: 2, baseWeights: "q4" } },
];

const { values } = parseArgs({ options: { only: { type: "string" }, json: { type: "string" } } });
const only = values.only?.split(",").map(Number);
const side = await compiled("side-plan");
const folder = await mkdtemp(join(tmpdir(), "scion-plan-"));

async function ask(what: "write" | "plan" | "train", planned: PlanCase): Promise<string> {
  const model = join(folder, planned.shape);
  const args = [side, what, model, JSON.stringify(planned)];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return stdout;
}

function describe({ shape, method, methodOptions, settings, lengths: [from, to], validation }: PlanCase): string {
  const how = [`${method}${methodOptions["rank"] ? ` r=${methodOptions["rank"]}` : ""}`];
  how.push(`${settings.batchSize} × ${from === to ? to : `${from}–${to}`} tokens`, settings.memory ?? "balanced");
  if (settings.baseWeights) how.push(`base in ${settings.baseWeights}`);
  if (settings.accumulationSteps) how.push(`${settings.accumulationSteps} batches an update`);
  if (validation > 0) how.push("evaluated");
  return `${shape}, ${how.join(", ")}`;
}

const rows: { case: PlanCase; plan: RunPlan; run: RunMeasurement }[] = [];
try {
  const written = new Set<string>();
  console.log(`${"configuration".padEnd(64)} planned  measured   off   planned  measured`);
  for (const [i, planned] of cases.entries()) {
    if (only && !only.includes(i)) continue;
    if (!written.has(planned.shape)) await ask("write", planned);
    written.add(planned.shape);
    const plan = JSON.parse(await ask("plan", planned)) as RunPlan; // the side's own line
    const run = JSON.parse(await ask("train", planned)) as RunMeasurement; // likewise
    rows.push({ case: planned, plan, run });
    const off = 100 * (plan.memory.peakBytes / run.peakBytes - 1);
    const megabytes = [plan.memory.peakBytes, run.peakBytes].map(
      (bytes) => `${(bytes / 1e6).toFixed(0).padStart(5)} MB`,
    );
    const times = [plan.stepMs, run.stepMs].map((ms) => `${ms.toFixed(0).padStart(6)} ms`);
    console.log(
      `${describe(planned).padEnd(64)} ${megabytes.join("  ")} ${`${off > 0 ? "+" : ""}${off.toFixed(0)}`.padStart(4)} % ${times.join(" ")}`,
    );
  }
  const worst = Math.max(...rows.map(({ plan, run }) => Math.abs(plan.memory.peakBytes / run.peakBytes - 1)));
  console.log(`memory is at most ${(100 * worst).toFixed(1)} % off in ${rows.length} configurations`);
  if (values.json) await writeFile(values.json, `${JSON.stringify(rows, null, 2)}\n`);
} finally {
  await rm(folder, { recursive: true });
}
