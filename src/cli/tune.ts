import type { Command } from "commander";
import type { PrivacyPlan, RunEvent, RunPrivacy, RunResult } from "../index.ts";
import { attentionOf } from "./attention.ts";
import { readBaseText, readingRecord } from "./data.ts";
import { drawLengths } from "./histogram.ts";
import { deviceOptions, memoryOptions, realNumber, withIgnoreMemory } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { platformOf, startsOver, withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress, duration } from "./progress.ts";
import { drawRanks } from "./ranks.ts";
import { dashed, openTuning, type TuningFlags, withTuning } from "./tuning.ts";

interface TuneFlags extends TuningFlags {
  readonly output: string;
  readonly resume?: boolean;
  readonly baseText?: string;
  readonly trackIntruders?: boolean;
  readonly tensorboard: boolean;
  readonly attention?: string;
  readonly attentionError?: number;
}

const examples = `
Examples:
  $ scion tune --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion tune -m ./model -d train.jsonl --rank 16 --target-modules q_proj,v_proj --validation 0.1
  $ scion tune -m ./model -d book.txt --method full --learning-rate 1e-4 --output runs/book
  $ scion tune … --output runs/mine --resume        go on after an interruption
  $ scion tune --config run.yaml                    options from a file (docs/tune.schema.json)

Data is JSONL, JSON, CSV or Parquet with "messages", "prompt"/"completion", "text", Alpaca's or
ShareGPT's keys, or plain text; "chosen"/"rejected" rows are learnt from by DPO.
The output folder gets checkpoint.safetensors, metrics.jsonl, events for TensorBoard, lengths.svg, run.json (the options
in effect, which --config takes), and adapter/ (PEFT) or model/ (full tuning).
Ctrl-C saves and stops; a second one stops at once.`;

/** `scion tune` */
export async function define(command: Command): Promise<void> {
  withIgnoreMemory(withReplace(await withTuning(command.description("Tune a model on data")), startsOver))
    .option("-o, --output <folder>", "where checkpoints and results go", "runs/tune")
    .option("--no-tensorboard", "write no events for TensorBoard (tensorboard --logdir runs)")
    .option("--resume", "go on from the output folder's checkpoint")
    .option("--base-text <file>", "measure forgetting at every evaluation: the loss on this above the base model's")
    .option("--track-intruders", "count intruder dimensions at every evaluation (docs/diagnosis.md)")
    .option(
      "--attention <how>",
      "exact (the default), auto, or polynomial:<plan>: the attention.json of scion diagnose --attention or of a run (docs/attention.md)",
    )
    .option(
      "--attention-error <x>",
      "with --attention auto: let heads qualify by the error of outputs on sampled queries too",
      realNumber,
    )
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: TuneFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { checkFolder, checkOutput, exportForms, exportModel, folderKind, methods, ranksLeft, refuseOtherRun } =
    await import("../index.ts");
  const { tasks, tune } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  const { storage } = platformOf(flags);
  const { peft, form: own, sublayers = false } = methods.get(flags.method) ?? {};
  const form = own ?? (peft ? "peft" : "safetensors");
  const saved = `${flags.output}/${exportForms[form].holds}`;
  if (flags.resume !== true && flags["replace"] !== true) await refuseOtherRun(storage, flags.output);
  await checkOutput(storage, flags.output, "run");
  await checkFolder(storage, saved, folderKind(form));
  const { model, data, choice } = await openTuning(flags, given, output, flags.output);
  const picture = drawLengths(`${flags.data.join(", ")}: lengths of ${data.report.examples} examples`, data.report);

  const text = await readBaseText(model, flags.baseText, flags, output);
  if (text) output.record({ kind: "base-text", ...readingRecord(text) });

  const stop = listenForInterrupt(output, "Saving after this update");
  const { watch, decided } = watchRun(output);
  const options = {
    ...choice,
    output: flags.output,
    resume: flags.resume === true,
    ...(flags["replace"] === true ? { replace: true } : {}),
    ...memoryOptions(flags),
    tensorboard: flags.tensorboard,
    ...(flags.attention === undefined
      ? {}
      : { attention: await attentionOf(flags.attention, { storage, words: ["exact", "auto"] }) }),
    ...(flags.attentionError === undefined ? {} : { attentionError: flags.attentionError }),
  };
  let result: RunResult;
  try {
    result = await tune(model, data, {
      ...options,
      baseText: text?.train ?? [],
      trackIntruders: flags.trackIntruders === true,
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watch,
    });
  } finally {
    stop.release();
    if ("close" in data) await data.close();
  }
  await storage.write(`${flags.output}/lengths.svg`, picture);
  const ranks = ranksLeft(result.adapter);
  if (ranks.length > 0) {
    await storage.write(`${flags.output}/ranks.svg`, drawRanks(`${flags.method}: ranks left`, ranks));
    output.record({ kind: "ranks", ranks });
  }
  await exportModel(model, form, saved, { adapter: result.adapter, deviceOptions: deviceOptions(flags) });
  const record = { ...spoken(flags, given), ...decided() };
  await storage.write(`${flags.output}/run.json`, `${JSON.stringify(record, null, 2)}\n`);
  const { shownBy } = tasks[model.pretrained.task];
  summarise(result, saved, { ...flags, shownBy, merges: !sublayers }, output);
  return result.ended === "interrupted" ? exitCodes.interrupted : exitCodes.done;
}

/** The flags that a run's record keeps as they are: all but those about this one call and those that events settle. */
function spoken(flags: TuneFlags, given: Given): Readonly<Record<string, unknown>> {
  const about = ["json", "ignoreMemory", "config", "resume", "gradientCheckpointing", "epochs", "maxSteps"];
  const settled = ["dpDelta", "dpClip", "dpAccountant", "maxGradNorm"];

  const onlyGiven = ["targetModules", "bias"];
  return Object.fromEntries(
    Object.entries(flags).filter(
      ([name]) => ![...about, ...settled].includes(name) && (!onlyGiven.includes(name) || given.has(name)),
    ),
  );
}

function describeAttention({ step, left, remaining }: RunEvent & { readonly kind: "attention" }): readonly string[] {
  if (step === 0 && left.length === 0) {
    return [
      remaining === 0
        ? "No head qualifies for polynomial attention: all attend exactly (scion diagnose --attention says why)."
        : `${remaining} key heads attend by a polynomial; what is saved attends exactly.`,
    ];
  }
  const named = left.map(({ layer, head, share }) => `layer ${layer} head ${head} (${share.toFixed(2)}×)`).join(", ");
  return [`update ${step}: scores outgrew the plan in ${named}: exact from here on; ${remaining} heads left of it`];
}

/** Tells of a run, and what was decided in the words of `--config`. */
function watchRun(output: Output): {
  readonly watch: (event: RunEvent) => void;
  readonly decided: () => Readonly<Record<string, unknown>>;
} {
  const progress = createProgress();
  let decided: Readonly<Record<string, unknown>> = {};
  const watch = (event: RunEvent): void => {
    output.record(event);
    if (event.kind === "start") {
      const { name: method, ...methodOptions } = event.method;
      const { name: objective, ...objectiveOptions } = event.objective;
      const { optimizerOptions, epochs, maxSteps, ...others } = event.settings;
      const settings = ofPrivacy(others, event.privacy);
      decided = {
        ...{ method, ...methodOptions, objective, ...objectiveOptions },
        ...{ ...settings, ...optimizerOptions },
        ...(maxSteps > 0 ? { maxSteps } : { epochs }),
      };
      output.say(...describeStart(event));
      const share = ((100 * event.trainedParameters) / event.modelParameters).toFixed(2);
      output.say(
        `Training ${count(event.trainedParameters)} of ${count(event.modelParameters)} parameters (${share} %), ${count(event.steps)} updates${event.firstStep > 1 ? `, from update ${event.firstStep}` : ""}.`,
      );
    } else if (event.kind === "step") {
      progress.update(
        `${event.step}/${event.steps}  loss ${event.loss.toFixed(4)}  ${count(event.tokensPerSecond)} tokens/s  ${duration(event.remainingMs)} left`,
      );
    } else if (event.kind === "evaluation") {
      progress.clear();
      const measures = Object.entries(event.measures ?? {}).map(([name, value]) => `, ${name} ${value.toFixed(4)}`);
      const best = event.best ? " (best so far)" : "";
      output.say(`update ${event.step}: validation loss ${event.loss.toFixed(4)}${measures.join("")}${best}`);
    }
    if (event.kind === "attention") {
      progress.clear();
      output.say(...describeAttention(event));
    }
    if (event.kind === "observation") {
      progress.clear();
      const { forgetting, intruders } = event.measures;
      const parts = [
        ...(forgetting === undefined ? [] : [`forgetting ${forgetting.toFixed(4)}`]),
        ...(intruders === undefined ? [] : [`${count(intruders)} intruders`]),
      ];
      output.say(`update ${event.step}: ${parts.join(", ")}`);
    }
    if (event.kind === "step" && event.step === event.steps) progress.clear();
  };
  return { watch, decided: () => decided };
}

/** Settings without those of privacy that are not in effect, which would be refused if they were given. */
function ofPrivacy(
  settings: Readonly<Record<string, unknown>>,
  privacy: PrivacyPlan | undefined,
): Readonly<Record<string, unknown>> {
  const { dpEpsilon, dpNoise, dpDelta, dpClip, dpAccountant, ...others } = settings;
  if (!privacy) return others;
  const { maxGradNorm: _none, ...rest } = others;
  return { ...rest, dpDelta, dpClip, ...(privacy.budget ? { dpEpsilon, dpAccountant } : { dpNoise }) };
}

/** What a private run promises, before it is made. */
function describePrivacyPlan(plan: PrivacyPlan): readonly string[] {
  const { budget, noiseMultiplier, clip, samplingRate, steps, delta, unit, warnings } = plan;
  const asked = budget
    ? ` for epsilon ${budget.epsilon} at delta ${delta} (${budget.accountant})`
    : ` at delta ${delta}`;
  return [
    `${strong("private")} for one ${unit}: noise ${noiseMultiplier.toPrecision(4)} times the clip ${clip}${asked}; batches drawn with probability ${samplingRate.toPrecision(3)}, ${count(steps)} updates, one example a row`,
    ...warnings.map((warning) => `warning: ${warning}`),
  ];
}

/** What it has spent, after it. */
function describeSpent({ spent, delta, made, unit }: RunPrivacy): string {
  return `Spent of one ${unit}'s privacy: epsilon ${spent.prv.toFixed(3)} at delta ${delta.toExponential()} after ${count(made)} updates (${spent.rdp.toFixed(3)} by the Rényi accountant).`;
}

/** What is tuned how, in two lines or three: `lora (rank 8, alpha 16), learning rate 3e-4, adamw, …`. */
function describeStart({
  method,
  objective,
  settings,
  privacy,
}: Extract<RunEvent, { kind: "start" }>): readonly string[] {
  const { name, ...options } = method;
  const said = Object.entries(options).filter(([, value]) => value !== "" && value !== false);
  const shown = said.map(([option, value]) => `${dashed(option)} ${value === true ? "on" : String(value)}`);
  const { learningRate, schedule, optimizer, batchSize, accumulationSteps, epochs, maxSteps } = settings;
  const length = maxSteps > 0 ? `${maxSteps} updates` : `${epochs} epoch${epochs === 1 ? "" : "s"}`;
  const sequences = `${batchSize}${accumulationSteps > 1 ? ` × ${accumulationSteps}` : ""} sequences an update`;
  return [
    `${strong(name)}${shown.length > 0 ? ` (${shown.join(", ")})` : ""}, objective ${objective.name}`,
    `learning rate ${learningRate.toExponential()} (${schedule}), ${optimizer}, ${sequences}, ${length}`,
    ...(privacy ? describePrivacyPlan(privacy) : []),
    ...(settings.baseWeights === "f32" ? [] : [`base weights held in ${settings.baseWeights}`]),
  ];
}

function summarise(
  result: RunResult,
  saved: string,
  flags: TuneFlags & { readonly shownBy: string; readonly merges: boolean },
  output: Output,
): void {
  const { ended, step, best, privacy } = result;
  output.record({ kind: "end", ended, step, best, saved, ...(privacy ? { privacy } : {}) });
  const ends = {
    finished: "Done",
    "early-stop": "Stopped early: the validation loss no longer falls",
    interrupted: "Interrupted; --resume goes on from here",
  };
  output.say(`${strong(ends[result.ended])} at update ${result.step} of ${result.steps}. Saved ${saved}.`);
  if (privacy) output.say(describeSpent(privacy));
  const use = saved.endsWith("adapter") ? `--model ${flags.model} --adapter ${saved}` : `--model ${saved}`;
  const on = flags.shownBy === "eval" ? " --data heldout.jsonl" : "";
  // What is not linear cannot be folded into the weights.
  const next = `  scion export ${use} --to transformers.js --output ${flags.output}/web`;
  output.say("", "Next:", `  scion ${flags.shownBy} ${use}${on}`, ...(flags.merges ? [next] : []));
}
