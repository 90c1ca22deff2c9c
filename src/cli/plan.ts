import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Command } from "commander";
import type { Remedy, RunPlan, TuningChoice, TuningPlan } from "../index.ts";
import { deviceOptions, realNumber } from "./model.ts";
import { type Output, strong } from "./output.ts";
import type { Given } from "./parsing.ts";
import { count, duration } from "./progress.ts";
import { dashed, openTuning, type TuningFlags, withTuning } from "./tuning.ts";

interface PlanFlags extends TuningFlags {
  readonly available?: number;
}

const examples = `
Examples:
  $ scion plan --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion plan -m ./model -d train.jsonl --rank 16 --batch-size 16 --available 4

Takes the options of tune, reads the model's configuration and the data, measures this machine for a moment, and says
what tuning would take. No weight is read and nothing is written. The estimate of memory is for a CPU.`;

/** `scion plan` */
export async function define(command: Command): Promise<void> {
  (await withTuning(command.description("Say what tuning would take: memory, time, and whether it fits")))
    .option("--available <GB>", "memory to fit into; what is free unless given", realNumber)
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: PlanFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { planTuning } = await import("../index.ts");
  const cache = join(tmpdir(), `scion-plan-${process.pid}`);
  const { model, data, choice } = await openTuning(flags, given, output, cache);
  const plan = await planTuning(model, data, {
    ...choice,
    deviceOptions: deviceOptions(flags),
    ...(flags.available === undefined ? {} : { availableBytes: 1e9 * flags.available }),
  });
  if ("close" in data) {
    await data.close();
    await model.platform.storage.prune(cache);
  }
  await describePlan(plan, choice, output);
  output.record(plan);
  return 0;
}

const partWords: Readonly<Record<keyof RunPlan["memory"]["parts"], string>> = {
  process: "Node and the data",
  weights: "pretrained weights",
  trained: "trained parameters and optimiser state",
  activations: "activations and gradients",
  programs: "compiled programs",
  loading: "weights on their way into ONNX Runtime",
};

async function describePlan(plan: TuningPlan, choice: TuningChoice, output: Output): Promise<void> {
  const { trainDefaults } = await import("../index.ts");
  const share = ((100 * plan.trainedParameters) / plan.modelParameters).toFixed(2);
  output.say(
    `Trains ${count(plan.trainedParameters)} of ${count(plan.modelParameters)} parameters (${share} %), ${count(plan.steps)} updates.`,
    "",
  );
  const verdict = plan.fits ? "it fits" : "it does not fit";
  output.say(
    `memory  ${strong(gigabytes(plan.memory.peakBytes))} at the peak, ${gigabytes(plan.availableBytes)} are free: ${verdict}`,
  );
  const parts = Object.entries(plan.memory.parts) as [keyof typeof partWords, number][]; // its keys
  for (const [part, bytes] of parts.sort(([, a], [, b]) => b - a)) {
    if (bytes > 0) output.say(`        ${gigabytes(bytes).padStart(8)}  ${partWords[part]}`);
  }
  output.say(
    `time    ${strong(pace(plan.stepMs))} an update, ${duration(plan.epochMs)} an epoch of ${count(plan.stepsPerEpoch)}, ${duration(plan.runMs)} in all`,
    "",
  );
  for (const [option, choices] of [
    ["memory", plan.choices],
    ["baseWeights", plan.baseWeights],
  ] as const) {
    for (const [name, { memory, stepMs }] of Object.entries(choices)) {
      const mark = name === (choice[option] ?? trainDefaults[option]) ? "  (chosen)" : "";
      const flag = `--${dashed(option)} ${name}`.padEnd(20);
      output.say(`${flag}  ${gigabytes(memory.peakBytes).padStart(8)}  ${pace(stepMs)} an update${mark}`);
    }
  }
  if (plan.fits) return;
  output.say("", plan.remedy ? describeRemedy(plan.remedy) : "Nothing short of a smaller model would make it fit.");
}

function describeRemedy({ settings, plan }: Remedy): string {
  const { methodOptions = {}, ...others } = settings;
  const flags = Object.entries({ ...others, ...methodOptions }).map(([name, value]) => `--${dashed(name)} ${value}`);
  return `This fits: ${strong(flags.join(" "))} (${gigabytes(plan.memory.peakBytes)}, ${pace(plan.stepMs)} an update).`;
}

function gigabytes(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

function pace(ms: number): string {
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
