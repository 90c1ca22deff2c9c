import type { Command } from "commander";
import type { RunEvent, RunResult } from "../index.ts";
import { drawLengths } from "./histogram.ts";
import { deviceOptions, loadFlags } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { startsOver, withReplace } from "./outputs.ts";
import { count, createProgress, duration } from "./progress.ts";
import { drawRanks } from "./ranks.ts";
import { headOf, loadTuningData, type TuningFlags, tuningChoice, withTuning } from "./tuning.ts";

interface TuneFlags extends TuningFlags {
  readonly output: string;
  readonly resume?: boolean;
  readonly baseText?: string;
  readonly trackIntruders?: boolean;
  readonly tensorboard: boolean;
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
  withReplace(await withTuning(command.description("Tune a model on data")), startsOver)
    .option("-o, --output <folder>", "where checkpoints and results go", "runs/tune")
    .option("--no-tensorboard", "write no events for TensorBoard (tensorboard --logdir runs)")
    .option("--resume", "go on from the output folder's checkpoint")
    .option("--base-text <file>", "measure forgetting at every evaluation: the loss on this above the base model's")
    .option("--track-intruders", "count intruder dimensions at every evaluation (docs/diagnosis.md)")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: TuneFlags, output: Output): Promise<number> {
  const { checkFolder, checkOutput, exportForms, exportModel, folderKind, loadData, methods, ranksLeft, tasks, tune } =
    await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  const { model } = await loadFlags(flags, output, headOf(flags));
  const { storage } = model.platform;
  const { peft, form: own, sublayers = false } = methods.get(flags.method) ?? {};
  const form = own ?? (peft ? "peft" : "safetensors");
  const saved = `${flags.output}/${exportForms[form].holds}`;
  await checkOutput(storage, flags.output, "run");
  await checkFolder(storage, saved, folderKind(form));
  const data = await loadTuningData(model, flags, output, flags.output);
  const picture = drawLengths(`${flags.data.join(", ")}: lengths of ${data.report.examples} examples`, data.report);

  const baseText = flags.baseText === undefined ? [] : (await loadData(model, flags.baseText)).train;

  const stop = listenForInterrupt(output, "Saving after this update");
  const watch = watchRun(output);
  const options = {
    ...(await tuningChoice(flags, data)),
    output: flags.output,
    resume: flags.resume === true,
    tensorboard: flags.tensorboard,
  };
  let result: RunResult;
  try {
    result = await tune(model, data, {
      ...options,
      baseText,
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
  // Everything that was decided, in the words of `--config`.
  const {
    json: _json,
    config: _config,
    resume: _resume,
    replace: _replace,
    ...decided
  } = { ...result.adapter.choice.config, ...flags };
  await storage.write(`${flags.output}/run.json`, `${JSON.stringify(decided, null, 2)}\n`);
  const { shownBy } = tasks[model.pretrained.task];
  summarise(result, saved, { ...flags, shownBy, merges: !sublayers }, output);
  return result.ended === "interrupted" ? exitCodes.interrupted : exitCodes.done;
}

function watchRun(output: Output): (event: RunEvent) => void {
  const progress = createProgress();
  return (event) => {
    output.record(event);
    if (event.kind === "start") {
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
}

function summarise(
  result: RunResult,
  saved: string,
  flags: TuneFlags & { readonly shownBy: string; readonly merges: boolean },
  output: Output,
): void {
  output.record({ kind: "end", ended: result.ended, step: result.step, best: result.best, saved });
  const ends = {
    finished: "Done",
    "early-stop": "Stopped early: the validation loss no longer falls",
    interrupted: "Interrupted; --resume goes on from here",
  };
  output.say(`${strong(ends[result.ended])} at update ${result.step} of ${result.steps}. Saved ${saved}.`);
  const use = saved.endsWith("adapter") ? `--model ${flags.model} --adapter ${saved}` : `--model ${saved}`;
  const on = flags.shownBy === "eval" ? " --data heldout.jsonl" : "";
  // What is not linear cannot be folded into the weights.
  const next = `\n  scion export ${use} --to transformers.js --output ${flags.output}/web`;
  output.say(`\nNext:\n  scion ${flags.shownBy} ${use}${on}${flags.merges ? next : ""}`);
}
