import { type Command, InvalidArgumentError, Option } from "commander";
import type { Field, RunEvent, RunResult, TrainSettings } from "../index.ts";
import { deviceOptions, loadFlags, type ModelFlags, realNumber, wholeNumber, withModel } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { count, createProgress, duration } from "./progress.ts";

interface TuneFlags extends ModelFlags {
  readonly data: string;
  readonly output: string;
  readonly method: string;
  readonly targetModules?: string;
  readonly validation?: number;
  readonly validationData?: string;
  readonly maxLength?: number;
  readonly resume?: boolean;
  readonly [option: string]: unknown;
}

/** Training settings as flags: name in `TrainSettings`, what it takes, what it is. */
const settingFlags: readonly { key: keyof TrainSettings; parse: (text: string) => number; help: string }[] = [
  { key: "epochs", parse: realNumber, help: "passes over the data" },
  { key: "maxSteps", parse: wholeNumber, help: "updates to make, instead of epochs" },
  { key: "batchSize", parse: wholeNumber, help: "sequences in a batch" },
  { key: "accumulationSteps", parse: wholeNumber, help: "batches in an update" },
  { key: "learningRate", parse: realNumber, help: "peak learning rate" },
  { key: "warmup", parse: realNumber, help: "updates of warm-up; below 1 a share of all" },
  { key: "maxGradNorm", parse: realNumber, help: "clip gradients to this global norm; 0 does not" },
  { key: "evaluateEvery", parse: wholeNumber, help: "updates between evaluations; 0 is once an epoch" },
  { key: "patience", parse: wholeNumber, help: "evaluations without gain before stopping early; 0 never" },
  { key: "checkpointEvery", parse: wholeNumber, help: "updates between checkpoints" },
  { key: "seed", parse: wholeNumber, help: "decides initial values, order and dropout" },
];

const examples = `
Examples:
  $ scion tune --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion tune -m ./model -d train.jsonl --rank 16 --target-modules q_proj,v_proj --validation 0.1
  $ scion tune -m ./model -d book.txt --method full --learning-rate 1e-4 --output runs/book
  $ scion tune … --output runs/mine --resume        go on after an interruption

Data is JSONL with "messages", "prompt"/"completion" or "text", or plain text.
The output folder gets checkpoint.safetensors, metrics.jsonl, run.json, and adapter/ (PEFT) or model/ (full tuning).
Ctrl-C saves and stops; a second one stops at once.`;

/** `scion tune` */
export async function define(command: Command): Promise<void> {
  const { methods, trainDefaults } = await import("../index.ts");
  withModel(command.description("Tune a model on data"), { adapter: false })
    .requiredOption("-d, --data <file>", "training data")
    .option("-o, --output <folder>", "where checkpoints and results go", "runs/tune")
    .addOption(new Option("--method <name>", "how to tune").choices([...methods.keys()]).default("lora"))
    .option("--target-modules <names>", "all-linear, names separated by commas, or /regular expression/", "all-linear")
    .option("--validation <share>", "share (below 1) or number of rows to hold back", realNumber)
    .option("--validation-data <file>", "a file to validate on instead")
    .option("--max-length <tokens>", "longest sequence; the model's context unless given", wholeNumber)
    .option("--schedule <shape>", "constant, linear or cosine", trainDefaults.schedule)
    .option("--memory <choice>", "fast, balanced or small: from the most memory to the least", trainDefaults.memory)
    .option("--weight-decay <x>", "decoupled weight decay of matrices", realNumber, trainDefaults.optimizer.weightDecay)
    .option("--resume", "go on from the output folder's checkpoint");
  for (const { key, parse, help } of settingFlags) {
    command.option(`--${dashed(key)} <n>`, help, checked(parse), trainDefaults[key] as number); // each of these is a number
  }
  // A method's options are flags of their own names, declared once in its record.
  const fields = new Map<string, Field<unknown>>();
  for (const method of methods.values())
    for (const [name, field] of Object.entries(method.fields)) fields.set(name, field);
  for (const [name, field] of fields) {
    const users = [...methods.values()].filter((method) => name in method.fields).map((method) => method.name);
    const help = `${field.help} (${users.join(", ")}; ${String(field.initial)} unless given)`;
    if (field.kind === "boolean") command.option(`--${dashed(name)}`, help);
    else command.option(`--${dashed(name)} <n>`, help, checked(field.kind === "integer" ? wholeNumber : realNumber));
  }
  command.addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: TuneFlags, output: Output): Promise<number> {
  const { exportModel, loadData, methods, parseTargets, trainDefaults, tune } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { nodePlatform } = await import("../runtime/node.ts");
  const { model } = await loadFlags(flags, output);
  const settings: Record<string, unknown> = { schedule: flags["schedule"], memory: flags["memory"] };
  for (const { key } of settingFlags) settings[key] = flags[key];
  const own = methods.get(flags.method)?.fields ?? {};
  const given = Object.keys(own).filter((name) => flags[name] !== undefined);
  const data = await loadData(model, flags.data, {
    seed: Number(flags["seed"]),
    ...(flags.validation === undefined ? {} : { validation: flags.validation }),
    ...(flags.validationData === undefined ? {} : { validationPath: flags.validationData }),
    ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
  });
  describeData(data, flags, output);

  const stop = new AbortController();
  const onSignal = (): void => {
    if (stop.signal.aborted) process.exit(exitCodes.interrupted);
    stop.abort();
    output.say("\nSaving after this update… (Ctrl-C again stops at once)");
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  const watch = watchRun(output);
  const options = {
    ...(settings as Partial<TrainSettings>), // the flags above, each of its setting's type
    optimizer: { ...trainDefaults.optimizer, weightDecay: Number(flags["weightDecay"]) },
    method: flags.method,
    methodOptions: Object.fromEntries(given.map((name) => [name, flags[name] as number | boolean])), // parsed by field
    targetModules: parseTargets(flags.targetModules ?? "all-linear"),
    output: flags.output,
    resume: flags.resume === true,
  };
  let result: RunResult;
  try {
    result = await tune(model, data, {
      ...options,
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watch,
    });
  } finally {
    process.off("SIGINT", onSignal);
    process.off("SIGTERM", onSignal);
  }
  const form = methods.get(flags.method)?.peft ? "peft" : "safetensors";
  const saved = `${flags.output}/${form === "peft" ? "adapter" : "model"}`;
  await exportModel(model, form, saved, { adapter: result.adapter, deviceOptions: deviceOptions(flags) });
  const resolved = { model: flags.model, data: flags.data, ...options, targetModules: flags.targetModules };
  await nodePlatform.storage.write(`${flags.output}/run.json`, `${JSON.stringify(resolved, null, 2)}\n`);
  summarise(result, saved, form, flags, output);
  return result.ended === "interrupted" ? exitCodes.interrupted : exitCodes.done;
}

function describeData(
  data: Awaited<ReturnType<typeof import("../index.ts")["loadData"]>>,
  flags: TuneFlags,
  output: Output,
): void {
  const { format, train, validation, warnings, ignoredKeys, preview } = data;
  const trained = train.reduce((sum, example) => sum + example.trained.reduce((n, mark) => n + mark, 0), 0);
  const tokens = train.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  output.say(
    `${flags.data}: ${count(train.length)} ${format} examples, ${count(tokens)} tokens, ${count(trained)} of them trained.`,
  );
  if (validation.length > 0) output.say(`${count(validation.length)} examples are held back for validation.`);
  if (ignoredKeys.length > 0) output.say(`Ignored keys: ${ignoredKeys.join(", ")}.`);
  for (const { code, lines } of warnings)
    output.say(
      `${warningWords[code]}: ${count(lines.length)} (line ${lines.slice(0, 5).join(", ")}${lines.length > 5 ? ", …" : ""}).`,
    );
  output.say(`The first example, with ⟦what is trained⟧:\n${preview}\n`);
  output.record({
    kind: "data",
    format,
    train: train.length,
    validation: validation.length,
    tokens,
    trained,
    ignoredKeys,
    warnings,
  });
}

const warningWords = {
  truncated: "Rows cut at the longest length",
  dropped: "Rows left out, for no trained token is within the longest length",
  "border-moved": "Rows where a token spans the end of the prompt",
  "earlier-turns-not-trained": "Conversations whose template rewrites earlier turns, which are not trained",
  "generation-prompt-differs": "Conversations whose answers start otherwise than the generation prompt",
  "no-end-of-turn": "Rows without a token that ends the answer",
} as const;

function watchRun(output: Output): (event: RunEvent) => void {
  const progress = createProgress(process.stderr);
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
      output.say(`update ${event.step}: validation loss ${event.loss.toFixed(4)}${event.best ? " (best so far)" : ""}`);
    }
    if (event.kind === "step" && event.step === event.steps) progress.clear();
  };
}

function summarise(result: RunResult, saved: string, form: string, flags: TuneFlags, output: Output): void {
  output.record({ kind: "end", ended: result.ended, step: result.step, best: result.best, saved });
  const ends = {
    finished: "Done",
    "early-stop": "Stopped early: the validation loss no longer falls",
    interrupted: "Interrupted; --resume goes on from here",
  };
  output.say(`${strong(ends[result.ended])} at update ${result.step} of ${result.steps}. Saved ${saved}.`);
  const use = form === "peft" ? `--model ${flags.model} --adapter ${saved}` : `--model ${saved}`;
  output.say(`\nNext:\n  scion chat ${use}\n  scion export ${use} --to transformers.js --output ${flags.output}/web`);
}

function checked(parse: (text: string) => number): (text: string) => number {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
    }
  };
}

function dashed(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
