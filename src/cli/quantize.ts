import { type Command, InvalidArgumentError, Option } from "commander";
import type {
  BitPlan,
  BitsChoice,
  LoadedData,
  LoadedModel,
  MatrixReport,
  PackedReport,
  QuantiseEvent,
  QuantizeChoice,
  ScaleTuningEvent,
} from "../index.ts";
import { bitsTable, drawBits } from "./bits-picture.ts";
import { type DataFlags, describeReading, readingOf, readingRecord, withData } from "./data.ts";
import {
  deviceOptions,
  loadFlags,
  type ModelFlags,
  memoryOptions,
  realNumber,
  wholeNumber,
  withIgnoreMemory,
  withModel,
} from "./model.ts";
import { type Output, strong } from "./output.ts";
import { withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress, duration } from "./progress.ts";
import { dashed, fieldsGiven, refuseStrangers, withFields } from "./tuning.ts";

interface QuantizeFlags extends ModelFlags, DataFlags {
  readonly calibration?: string;
  readonly method: string;
  readonly bits: number | string;
  readonly variant?: "acc" | "lat";
  readonly allocate: "programme" | "rule";
  readonly calibrationRows: number;
  readonly maxLength?: number;
  readonly keepAs: "float16" | "float32";
  readonly output: string;
  readonly compare?: boolean;
  readonly evaluation?: string;
  readonly tuneScales?: boolean;
  readonly tuneSteps: number;
  readonly tuneRate: number;
  readonly resume?: boolean;
  readonly [option: string]: unknown;
}

const examples = `
Examples:
  $ scion quantize -m ./model --calibration text.jsonl --bits 3 -o packed
  $ scion quantize -m ./model --calibration text.jsonl --bits mixed:2.2 --variant acc -o packed
  $ scion quantize -m ./model --calibration text.jsonl --method gptq --group-size 64 --bits 4 -o packed
  $ scion quantize -m ./model --method rtn --bits 4 -o packed                  no text is needed
  $ scion quantize … --bits 2 --tune-scales --compare --evaluation heldout.jsonl -o compared
  $ scion quantize … -o packed --resume             go on after an interruption

The packed folder holds packed.safetensors (docs/packed-format.md), config.json and the tokenizer, and is taken
wherever a model is: scion chat, eval, tune and export. bits.svg shows the bits of every matrix.
Calibration text should be like what the model will be used on: 128 texts of some hundred tokens are usual.
Ctrl-C stops after the matrix at hand and keeps the blocks that are done in <output>.work.`;

/** `scion quantize` */
export async function define(command: Command): Promise<void> {
  const { schemes } = await import("../index.ts");
  withIgnoreMemory(
    withReplace(withModel(command.description("Pack a model's weights into 1 to 8 bits"), { adapter: false })),
  );
  withData(command)
    .option(
      "--calibration <file>",
      "text that the inputs of layers are measured on, in the forms that tune reads; rtn, and bcq without --compensate, need none",
    )
    .addOption(new Option("--method <name>", "how to quantise").choices([...schemes.keys()]).default("shiftadd"))
    .option("--bits <n>", "bits of every matrix, 1 to 8, or an average of 2, 3 and 4: mixed:2.2", bitsOf, 3)
    .addOption(
      new Option("--variant <which>", "shiftadd's scales: acc, down a column, or lat, in blocks of 8 columns").choices([
        "acc",
        "lat",
      ]),
    )
    .addOption(
      new Option("--allocate <how>", "mixed bits: by measured errors, or one bit more for the most important matrices")
        .choices(["programme", "rule"])
        .default("programme"),
    )
    .option("--calibration-rows <n>", "texts of the calibration file that are used, from the first", wholeNumber, 128)
    .option("--max-length <tokens>", "longest text in tokens; 512 or the model's context unless given", wholeNumber)
    .addOption(
      new Option("--keep-as <dtype>", "what embeddings and the output layer are kept in")
        .choices(["float16", "float32"])
        .default("float16"),
    )
    .requiredOption("-o, --output <folder>", "where the packed model goes; an earlier one there is replaced whole")
    .option("--tune-scales", "then train the scales towards the model's own outputs on the text (Scion's extension)")
    .option("--tune-steps <n>", "updates of that training", wholeNumber, 300)
    .option("--tune-rate <x>", "peak learning rate of that training", realNumber, 1e-3)
    .option("--compare", "quantise in every way at these bits and print how each does, instead of one")
    .option("--evaluation <file>", "text that the ways are compared on; a tenth of the calibration file unless given")
    .option("--resume", "go on from the blocks that a stopped run left");
  withFields(command, [...schemes.values()]);
  command.addHelpText("after", examples);
}

/** `2`, or `mixed:2.2`. */
function bitsOf(text: string): number | string {
  const mixed = /^mixed:(.+)$/.exec(text)?.[1];
  try {
    if (mixed === undefined) return wholeNumber(text);
    realNumber(mixed);
    return text;
  } catch {
    throw new InvalidArgumentError(`"${text}" is neither a whole number nor an average such as mixed:2.2.`);
  }
}

/** Run it. */
export async function run(
  flags: QuantizeFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  const { addFile, calibrationNeed, checkQuantizing, quantize } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  await refuseIdle(flags, given);
  const choice = await quantizeChoice(flags, given);
  checkQuantizing(choice);
  await refuseWithoutText(flags, calibrationNeed(choice));
  const { model } = await loadFlags(flags, output);
  const data = flags.calibration === undefined ? undefined : await loadCalibration(model, flags.calibration, flags);
  if (data) {
    describeReading(data, output);
    output.record({ kind: "data", ...readingRecord(data) });
  }
  const stop = listenForInterrupt(output, "Stopping after this matrix");
  try {
    if (flags.compare && data) return await compare(model, data, flags, choice, output, stop.signal);
    const result = await quantize(model, data, {
      ...choice,
      output: flags.output,
      resume: flags.resume === true,
      ...memoryOptions(flags),
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watchQuantising(output),
    });
    if (result.ended === "interrupted") {
      output.say("Interrupted; --resume goes on from the blocks that are done.");
      output.record({ kind: "end", ended: "interrupted" });
      return exitCodes.interrupted;
    }
    const { reports } = result.quantised;
    const picture = drawBits(`${flags.output}: bits of every matrix`, reports);
    await addFile(model.platform.storage, flags.output, "bits.svg", picture);
    for (const line of bitsTable(reports)) output.say(line);
    const measured = data === undefined ? "weight" : "output";
    const worst = reports.toSorted((a, b) => errorOf(b) - errorOf(a)).slice(0, 3);
    output.say(
      `Largest ${measured} errors: ${worst.map((report) => `${report.module} ${percent(errorOf(report))}`).join(", ")}.`,
    );
    if (data === undefined) output.say("Errors of outputs were not measured: there was no --calibration text.");
    const damped = reports.filter(({ damping }) => damping !== undefined && damping > 0.011);
    if (damped.length > 0) {
      output.say(
        `Hessians that needed more damping than usual: ${damped.map(({ module, damping }) => `${module} (${damping})`).join(", ")}.`,
      );
    }
    const dead = reports.filter(({ deadInputs }) => deadInputs > 0);
    if (dead.length > 0) {
      output.say(
        `Inputs that were 0 on the whole text, whose weights are now 0: ${dead.map(({ module, deadInputs }) => `${module} ${deadInputs}`).join(", ")}.`,
      );
    }
    describeReport(result.report, output);
    output.say(
      "",
      `${strong("Done")}. Next:`,
      `  scion eval --model ${flags.output} --data heldout.jsonl`,
      `  scion generate --model ${flags.output} --prompt "Once upon a time"`,
    );
    output.record({ kind: "end", ended: "finished", ...result.report, written: flags.output });
    return exitCodes.done;
  } finally {
    stop.release();
  }
}

/** Quantise in every way, and print a table. */
async function compare(
  model: LoadedModel,
  data: LoadedData,
  flags: QuantizeFlags,
  { method: _each, methodOptions: _own, ...shared }: QuantizeChoice,
  output: Output,
  signal: AbortSignal,
): Promise<number> {
  const { compareQuantized, standardCandidates } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const candidates = standardCandidates(shared);
  const progress = createProgress();
  const header = ["", "bits/weight", "perplexity", "loss", "file", "tokens/s", "energy/token"];
  const widths = [16, 12, 11, 8, 10, 9, 13];
  const line = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[i] ?? 0))).join("");
  output.say(line(header));
  const rows = await compareQuantized(model, data, {
    candidates,
    output: flags.output,
    ...memoryOptions(flags),
    deviceOptions: deviceOptions(flags),
    signal,
    onEvent: (name, event) => {
      if (event.kind === "matrix")
        progress.update(`${name}  ${event.done}/${event.total}  ${duration(event.remainingMs)} left`);
      if (event.kind === "measured") progress.update(`${name}: measuring ${event.done}/${event.total}`);
      if (event.kind === "tuning" && event.event.kind === "step") {
        progress.update(
          `${name}: tuning scales ${event.event.step}/${event.event.steps}  ${duration(event.event.remainingMs)} left`,
        );
      }
    },
    onRow: (row) => {
      progress.clear();
      output.record(row);
      const { report } = row;
      const picojoules = report ? report.energy.packed.operations + report.energy.packed.traffic : undefined;
      output.say(
        line([
          row.name,
          report ? report.bitsPerWeight.toFixed(3) : "",
          row.perplexity.toFixed(3),
          row.loss.toFixed(4),
          report ? `${(report.fileBytes / 1e6).toFixed(2)} MB` : "",
          row.tokensPerSecond.toFixed(0),
          picojoules === undefined ? "" : `${(picojoules / 1e6).toFixed(2)} µJ`,
        ]),
      );
    },
  });
  output.say("Bits a weight count scales and zero points. Energy is modelled, not measured.");
  return rows.length === candidates.length + 1 ? exitCodes.done : exitCodes.interrupted;
}

/** @throws {TuneError} `bad-option` for options that would do nothing beside the others. */
async function refuseIdle(flags: QuantizeFlags, given: Given): Promise<void> {
  const { schemes, TuneError } = await import("../index.ts");
  const scheme = schemes.get(flags.method);
  const fields = [...schemes.values()].flatMap((record) => Object.keys(record.fields));
  const needs: readonly (readonly [names: readonly string[], ok: boolean, needed: string])[] = [
    [["tuneSteps", "tuneRate"], flags.tuneScales === true, "they are about --tune-scales"],
    [["evaluation"], flags.compare === true, "ways are compared on it by --compare"],
    [["allocate"], typeof flags.bits === "string", "--bits is the same for every matrix, not mixed:…"],
    [["resume"], flags.compare !== true, "a comparison goes on with what it finds"],
    [["method", "variant", ...fields], flags.compare !== true, "--compare takes every way as it is"],
    [
      ["variant"],
      scheme !== undefined && "blockWise" in scheme.fields,
      `--method ${flags.method} has one variant; shiftadd has two`,
    ],
    [
      ["calibrationRows", "maxLength", "columns", "skipBadRows"],
      flags.calibration !== undefined,
      "there is no --calibration text",
    ],
    [["device", "threads"], flags.calibration !== undefined, "without --calibration text no program runs"],
    [["blockWise"], flags.variant === undefined, "--variant says it already"],
  ];
  const problems = needs.flatMap(([names, ok, needed]) =>
    names.filter((name) => !ok && given.has(name)).map((name) => `--${dashed(name)} would do nothing: ${needed}.`),
  );
  if (problems.length > 0) {
    throw new TuneError("bad-option", [...new Set(problems)], {
      at: "scion quantize",
      fix: "leave these options out, or give what they need",
    });
  }
  refuseStrangers(given, [
    { by: `--method ${flags.method}`, chosen: scheme ? [scheme] : [], all: [...schemes.values()] },
  ]);
}

/** The quantisation that the flags choose. */
async function quantizeChoice(flags: QuantizeFlags, given: Given): Promise<QuantizeChoice> {
  const { schemes } = await import("../index.ts");
  const options: Record<string, number | boolean | string> = {
    ...fieldsGiven(flags, given, schemes.get(flags.method)?.fields),
  };
  if (flags.variant !== undefined) options["blockWise"] = flags.variant === "lat";
  const mixed = typeof flags.bits === "string" ? Number(flags.bits.replace("mixed:", "")) : undefined;
  const bits: BitsChoice = mixed === undefined ? Number(flags.bits) : { average: mixed, by: flags.allocate };
  return {
    method: flags.method,
    methodOptions: options,
    bits,
    ...(flags.calibration === undefined ? {} : { calibrationRows: flags.calibrationRows }),
    keepAs: flags.keepAs,
    ...(flags.tuneScales ? { tuneScales: { maxSteps: flags.tuneSteps, learningRate: flags.tuneRate } } : {}),
  };
}

async function loadCalibration(model: LoadedModel, file: string, flags: QuantizeFlags): Promise<LoadedData> {
  const { loadData } = await import("../index.ts");
  const maxLength = flags.maxLength ?? Math.min(512, model.pretrained.sizes.contextLength);
  const held =
    flags.evaluation !== undefined ? { validationPath: flags.evaluation } : flags.compare ? { validation: 0.1 } : {};
  return loadData(model, file, { maxLength, ...held, ...readingOf(flags) });
}

/** Tell of what happens. */
function watchQuantising(output: Output): (event: QuantiseEvent | ScaleTuningEvent) => void {
  const progress = createProgress();
  type Any = QuantiseEvent | ScaleTuningEvent;
  const tell: { readonly [Kind in Any["kind"]]: (event: Extract<Any, { kind: Kind }>) => void } = {
    calibration: ({ tokens, comfortableTokens, expectedMs }) => {
      output.say(`Calibrating on ${count(tokens)} tokens, which should take about ${duration(expectedMs)}.`);
      if (tokens < comfortableTokens) {
        output.say(`That is little for layers this wide: ${count(comfortableTokens)} or more would be better.`);
      }
    },
    measured: ({ name, done, total, remainingMs }) =>
      progress.update(`measuring ${done}/${total}  ${name}  ${duration(remainingMs)} left`),
    plan: ({ plan }) => {
      progress.clear();
      describePlan(plan, output);
    },
    resumed: ({ blocks }) => output.say(`Going on after ${count(blocks)} finished blocks.`),
    matrix: ({ report, done, total, remainingMs }) => {
      progress.update(
        `${done}/${total}  ${report.module}  ${report.bits} bits, ${report.outputError === undefined ? "weight" : "output"} error ${percent(errorOf(report))}  ${duration(remainingMs)} left`,
      );
      if (done === total) progress.clear();
    },
    tuning: ({ event }) => {
      if (event.kind === "start")
        output.say(`Tuning ${count(event.trainedParameters)} scales, ${count(event.steps)} updates.`);
      if (event.kind !== "step") return;
      const { step, steps, loss, remainingMs } = event;
      progress.update(`${step}/${steps}  divergence ${loss.toFixed(4)} nats  ${duration(remainingMs)} left`);
      if (step === steps) progress.clear();
    },
  };
  return (event) => {
    output.record(event);
    (tell[event.kind] as (event: Any) => void)(event); // each is handed events of its kind
  };
}

function describePlan({ matrices, averageBits, exact }: BitPlan, output: Output): void {
  const groups = new Map<number, number>();
  for (const { bits } of matrices) groups.set(bits, (groups.get(bits) ?? 0) + 1);
  const parts = [...groups].sort(([a], [b]) => a - b).map(([bits, matched]) => `${matched} of ${bits} bits`);
  output.say(
    `Plan: ${parts.join(", ")}; ${averageBits.toFixed(3)} bits a weight on average${exact ? ", the best for the errors measured" : ""}.`,
  );
  const plan = matrices.map(({ name, bits }) => ({ module: name.replace(/\.weight$/, ""), bits }));
  for (const line of bitsTable(plan)) output.say(line);
}

function describeReport(report: PackedReport, output: Output): void {
  const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;
  const share = percent(report.packedBytes / report.packedFloat16Bytes);
  output.say(
    `${count(report.packedWeights)} weights packed at ${report.bitsPerWeight.toFixed(3)} bits each, scales counted: ${megabytes(report.packedBytes)}, ${share} of float16.`,
  );
  output.say(
    `File ${megabytes(report.fileBytes)}: planes ${megabytes(report.planesBytes)}, scales ${megabytes(report.scalesBytes)}, ${count(report.keptWeights)} weights kept as floats ${megabytes(report.keptBytes)}. The whole model in float16: ${megabytes(report.float16Bytes)}.`,
  );
  if (report.terms) {
    const [none = 0, one = 0, two = 0, three = 0] = report.terms;
    output.say(
      `Powers of two in a scale: none ${count(none)}, one ${count(one)}, two ${count(two)}, three ${count(three)}.`,
    );
  }
  const { packed, float16 } = report.energy;
  const microjoules = (picojoules: number): string => (picojoules / 1e6).toFixed(2);
  output.say(
    `Energy a token, modelled and not measured: ${microjoules(packed.operations + packed.traffic)} µJ (${microjoules(packed.traffic)} of it reading weights); in float16 ${microjoules(float16.operations + float16.traffic)} µJ.`,
  );
}

/** The error of outputs, or of weights where no outputs were measured. */
function errorOf({ outputError, weightError }: MatrixReport): number {
  return outputError ?? weightError;
}

/** Refuse to go on without text where it is needed. */
async function refuseWithoutText(flags: QuantizeFlags, need: string | undefined): Promise<void> {
  const { TuneError } = await import("../index.ts");
  const why = flags.compare ? "ways are compared on it" : need;
  if (flags.calibration !== undefined || why === undefined) return;
  throw new TuneError("bad-calibration", `Calibration text is needed: ${why}.`, {
    at: "--calibration",
    fix: "give --calibration a file of texts like those that the model will be used on, or choose --method rtn",
  });
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}
