import { type Command, InvalidArgumentError, Option } from "commander";
import { TuneError } from "../errors.ts";
import { type Optioned, takersOf, unlessGiven } from "../fields.ts";
import type {
  DataSource,
  Field,
  InPlace,
  LoadedData,
  LoadedModel,
  LoadModelOptions,
  NamedModules,
  StreamedData,
  TargetModules,
  TrainSettings,
  TuningChoice,
} from "../index.ts";
import { type DataFlags, describeReading, readingOf, readingRecord, showLines, withData } from "./data.ts";
import { heldDefault, loadFlags, type ModelFlags, realNumber, wholeNumber, withModel } from "./model.ts";
import type { Output } from "./output.ts";
import type { Given } from "./parsing.ts";
import { count } from "./progress.ts";

/** Options of every command about tuning: what is tuned how, on what. */
export interface TuningFlags extends ModelFlags, DataFlags {
  readonly data: readonly string[];
  readonly stream?: boolean;
  readonly method: string;
  readonly objective?: string;
  readonly optimizer: string;
  readonly targetModules?: string;
  readonly excludeModules?: string;
  readonly layers?: string;
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
  readonly modulesToSave?: string;
  readonly newTokens?: string;
  readonly bias?: InPlace["biases"];
  readonly validation?: number;
  readonly validationData?: string;
  readonly maxLength?: number;
  readonly [option: string]: unknown;
}

/** Training settings as flags: name in `TrainSettings`, what it takes, what it is. */
const settingFlags: readonly { key: keyof TrainSettings; parse: (text: string) => number; help: string }[] = [
  { key: "epochs", parse: realNumber, help: "passes over the data" },
  { key: "maxSteps", parse: wholeNumber, help: "updates to make, instead of epochs" },
  { key: "batchSize", parse: wholeNumber, help: "sequences in a batch" },
  { key: "accumulationSteps", parse: wholeNumber, help: "batches in an update" },
  {
    key: "learningRate",
    parse: realNumber,
    help: "peak learning rate; the method's and the objective's own unless given",
  },
  { key: "warmup", parse: realNumber, help: "updates of warm-up; below 1 a share of all" },
  { key: "maxGradNorm", parse: realNumber, help: "clip gradients to this global norm; 0 does not" },
  {
    key: "dpEpsilon",
    parse: realNumber,
    help: "tune privately: the most that the run may tell of one example (DP-SGD)",
  },
  { key: "dpNoise", parse: realNumber, help: "tune privately with this noise, as a multiple of the clip" },
  { key: "dpDelta", parse: realNumber, help: "probability that the guarantee fails; below one over the examples" },
  { key: "dpClip", parse: realNumber, help: "length that an example's gradient is clipped to" },
  { key: "evaluateEvery", parse: wholeNumber, help: "updates between evaluations; 0 is once an epoch" },
  { key: "patience", parse: wholeNumber, help: "evaluations without gain before stopping early; 0 never" },
  { key: "checkpointEvery", parse: wholeNumber, help: "updates between checkpoints" },
  { key: "seed", parse: wholeNumber, help: "decides initial values, order and dropout" },
];

/** Settings of private training: for commands that make one run. */
export const privacySets: readonly string[] = ["dpEpsilon", "dpNoise", "dpDelta", "dpClip", "dpAccountant"];

/** Those that are not in effect unless they are given. */
const unset: ReadonlySet<string> = new Set(["learningRate", "dpEpsilon", "dpNoise"]);

/** Settings that a search for a learning rate decides itself, or never comes to. */
export const searchSets: readonly string[] = [
  "learningRate",
  "warmup",
  "epochs",
  "maxSteps",
  "evaluateEvery",
  "patience",
  "checkpointEvery",
];

/** Add them to a command, but for those that it decides itself or that would do nothing there. */
export async function withTuning(
  command: Command,
  {
    without = [],
    records,
    defaults = {},
    data,
  }: {
    readonly without?: readonly string[];
    /** Methods whose options are flags; all of them unless given. */
    readonly records?: readonly string[];
    /** Where settings are others unless given. */
    readonly defaults?: Partial<TrainSettings>;
    /** What data are for where they may be left out; they are trained on, and needed, unless given. */
    readonly data?: string;
  } = {},
): Promise<Command> {
  const { methods, objectives, optimizers, trainDefaults: common } = await import("../index.ts");
  const trainDefaults = { ...common, ...defaults };
  withModel(command, { adapter: false }).addOption(
    new Option(
      "-d, --data <files...>",
      data ?? "training data; several files may have weights: a.jsonl b.csv:0.5",
    ).makeOptionMandatory(data === undefined),
  );
  if (!without.includes("stream"))
    command.option("--stream", "read data piece by piece, as is done where it would fill a large part of memory");
  withData(command).option("--config <file>", "take options from a YAML or JSON file; flags win over it");
  if (!without.includes("method"))
    command.addOption(new Option("--method <name>", "how to tune").choices([...methods.keys()]).default("lora"));
  command
    .addOption(
      new Option("--objective <name>", "what to minimise; what the data is for unless given").choices([
        ...objectives.keys(),
      ]),
    )
    .addOption(
      new Option("--optimizer <name>", "how gradients become updates")
        .choices([...optimizers.keys()])
        .default(trainDefaults.optimizer),
    )
    .option("--target-modules <names>", "all-linear, names separated by commas, or /regular expression/", "all-linear")
    .option("--exclude-modules <names>", "modules to leave out, in the same words")
    .option("--layers <numbers>", "attach in these layers alone, such as 0-3,7")
    .option("--rank-pattern <list>", "ranks of some modules: down_proj=16,layers.0.self_attn.q_proj=4", modulePattern)
    .option("--alpha-pattern <list>", "alphas of some modules, in the same way", modulePattern)
    .option("--modules-to-save <names>", "modules to train and save whole besides, such as lm_head,embed_tokens")
    .option("--new-tokens <list>", "tokens to add to the vocabulary, or that it has: their rows are trained besides")
    .addOption(
      new Option("--bias <which>", "biases to train: none, of the adapted modules, or all")
        .choices(["none", "adapted", "all"])
        .default("none"),
    )
    .option("--new-head", "let the head for labels start anew with those of the data")
    .option("--max-length <tokens>", "longest sequence; the model's context unless given", wholeNumber)
    .option("--memory <choice>", "fast, balanced or small: from the most memory to the least", trainDefaults.memory)
    .option("--gradient-checkpointing", "recompute in the backward pass: another name of --memory small")
    .option("--base-weights <form>", `hold frozen weights in f32, f16, bf16, q8 or q4 (default: ${heldDefault})`);
  if (!without.includes("schedule"))
    command.option("--schedule <shape>", "constant, linear or cosine", trainDefaults.schedule);
  if (!without.includes("validation")) {
    command
      .option("--validation <share>", "share (below 1) or number of rows to hold back", realNumber)
      .option("--validation-data <file>", "a file to validate on instead");
  }
  for (const { key, parse, help } of settingFlags) {
    if (without.includes(key)) continue;
    const initial = unset.has(key) ? undefined : (trainDefaults[key] as number); // each of these is a number
    command.option(`--${dashed(key)} <n>`, help, parse, initial);
  }
  if (!without.includes("dpAccountant")) {
    const how = "who says what --dp-epsilon takes: prv (tighter) or rdp";
    command.addOption(
      new Option("--dp-accountant <name>", how).choices(["prv", "rdp"]).default(trainDefaults.dpAccountant),
    );
  }
  const chosen = records === undefined ? [...methods.values()] : records.flatMap((name) => methods.get(name) ?? []);
  withFields(command, [...chosen, ...objectives.values(), ...optimizers.values()]);
  return command;
}

/** The options of records as flags of their own names, declared once in their fields. */
export function withFields(
  command: Command,
  records: readonly { readonly name: string; readonly fields: Readonly<Record<string, Field<unknown>>> }[],
): void {
  const users = new Map<string, { readonly record: string; readonly field: Field<unknown> }[]>();
  for (const record of records) {
    for (const [name, field] of Object.entries(record.fields)) {
      users.set(name, [...(users.get(name) ?? []), { record: record.name, field }]);
    }
  }
  for (const [name, own] of users) {
    const [{ field }] = own as [(typeof own)[number]]; // a flag has users
    const help = helpOf(own);
    if (field.kind === "boolean") command.option(`--${field.initial === true ? "no-" : ""}${dashed(name)}`, help);
    else if (field.choices) command.addOption(new Option(`--${dashed(name)} <word>`, help).choices(field.choices));
    else if (field.kind === "text") command.option(`--${dashed(name)} <text>`, help);
    else command.option(`--${dashed(name)} <n>`, help, field.kind === "integer" ? wholeNumber : realNumber);
  }
}

/** What a flag says, for each way in which its users mean it. */
function helpOf(users: readonly { readonly record: string; readonly field: Field<unknown> }[]): string {
  const meanings = new Map<string, { readonly says: string; readonly initial: string; readonly records: string[] }>();
  for (const { record, field } of users) {
    const [says, initial] = [field.help, unlessGiven(field)];
    const known = meanings.get(`${says} ${initial}`) ?? { says, initial, records: [] };
    known.records.push(record);
    meanings.set(`${says} ${initial}`, known);
  }
  const parts = [...meanings.values()].map(
    ({ says, initial, records }) =>
      `${says} (${records.join(", ")}; ${initial === "" ? "none" : initial} unless given)`,
  );
  return parts.join("; ");
}

/** The options that flags give to a record. */
export function fieldsGiven(
  flags: Readonly<Record<string, unknown>>,
  given: Given,
  fields: object = {},
): Readonly<Record<string, number | boolean | string>> {
  const own = Object.keys(fields).filter((name) => given.has(name));
  return Object.fromEntries(own.map((name) => [name, flags[name] as number | boolean | string])); // parsed by field
}

/** Records that a flag's value chooses: what it takes, and which there are. */
export interface Chosen {
  /** As it was asked for: `--method lora`. */
  readonly by: string;
  readonly chosen: readonly Optioned[];
  readonly all: readonly Optioned[];
}

/**
 * Check that some record that was chosen takes each option that is one of records.
 * @throws {TuneError} `bad-option` listing every flag that none of them takes, and who does.
 */
export function refuseStrangers(given: Given, groups: readonly Chosen[]): void {
  const problems = [...given].flatMap((name) => {
    const taken = groups.some(({ chosen }) => takersOf(name, chosen).length > 0);
    const takers = groups.flatMap(({ all }) => takersOf(name, all));
    if (taken || takers.length === 0) return [];
    const asked = groups.filter(({ all }) => takersOf(name, all).length > 0).map(({ by }) => by);
    return [`${asked.join(" and ")} has no option --${dashed(name)}: it is one of ${takers.join(", ")}.`];
  });
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, {
    at: "options",
    fix: "leave these options out, or choose what takes them",
  });
}

/**
 * The tuning that the flags choose.
 * @param kind what the examples are, once they are known.
 * @throws {TuneError} `bad-option` for options that nothing takes of what is chosen, or that contradict each other.
 */
export async function tuningChoice(
  flags: TuningFlags,
  given: Given,
  kind?: LoadedData["kind"],
  compared: readonly string[] = [flags.method],
): Promise<TuningChoice> {
  const { chooseObjective, methods, objectives, optimizers, parseTargets } = await import("../index.ts");
  const objective =
    flags.objective === undefined
      ? kind && chooseObjective(undefined, {}, kind).objective
      : chooseObjective(flags.objective, {}, kind ?? objectives.get(flags.objective)?.learnsFrom).objective;
  const chosen = compared.flatMap((name) => methods.get(name) ?? []);
  const matched = chosen.some((method) => method.matched) && !given.has("method");
  const optimizer = optimizers.get(flags.optimizer);
  refuseStrangers(new Set([...given].filter((name) => !(matched && ["rank", "alpha"].includes(name)))), [
    { by: `--method ${compared.join(",")}`, chosen, all: [...methods.values()] },
    {
      // What the data is for is known when it is read; an option is refused before.
      by: flags.objective === undefined ? "a run without --objective" : `--objective ${flags.objective}`,
      chosen: flags.objective === undefined || objective === undefined ? [] : [objective],
      all: [...objectives.values()],
    },
    { by: `--optimizer ${flags.optimizer}`, chosen: optimizer ? [optimizer] : [], all: [...optimizers.values()] },
  ]);
  const checkpointing = flags["gradientCheckpointing"] === true; // as PEFT's and TRL's users know it
  if (checkpointing && given.has("memory") && flags["memory"] !== "small") {
    throw new TuneError(
      "bad-option",
      `--gradient-checkpointing is --memory small, and not ${String(flags["memory"])}.`,
      {
        at: "--memory",
        fix: "leave one of the two out",
      },
    );
  }
  const settings: Record<string, unknown> = {};
  for (const key of [
    "schedule",
    "memory",
    "baseWeights",
    "optimizer",
    "dpAccountant",
    ...settingFlags.map(({ key }) => key),
  ])
    if (given.has(key)) settings[key] = flags[key];
  if (checkpointing) settings["memory"] = "small";
  const targets =
    given.has("targetModules") || given.has("excludeModules") || given.has("layers")
      ? {
          targetModules: selection(parseTargets(flags.targetModules ?? "all-linear"), {
            ...(flags.excludeModules === undefined ? {} : { exclude: parseTargets(flags.excludeModules) }),
            ...(flags.layers === undefined ? {} : { layers: layerNumbers(flags.layers) }),
          }),
        }
      : {};
  const options = (name: string, own: object): object => (Object.keys(own).length === 0 ? {} : { [name]: own });
  return {
    ...(settings as Partial<TrainSettings>), // the flags above, each of its setting's type
    method: flags.method,
    ...options("methodOptions", fieldsGiven(flags, given, methods.get(flags.method)?.fields)),
    ...options("optimizerOptions", fieldsGiven(flags, given, optimizer?.fields)),
    ...(objective ? { objective: objective.name } : {}),
    ...options("objectiveOptions", fieldsGiven(flags, given, objective?.fields)),
    ...targets,
    patterns: {
      ...(flags.rankPattern === undefined ? {} : { rank: flags.rankPattern }),
      ...(flags.alphaPattern === undefined ? {} : { alpha: flags.alphaPattern }),
    },
    inPlace: {
      ...(flags.modulesToSave === undefined ? {} : { modules: namesOf(flags.modulesToSave) }),
      ...(given.has("bias") && flags.bias !== undefined ? { biases: flags.bias } : {}),
    },
  };
}

/**
 * Everything that tuning commands begin with, what is cheap before what is dear: look at the options, open the model, look
 * at what they make of it, and only then read the data, through a cache in `folder` where it is streamed.
 */
export async function openTuning(
  flags: TuningFlags,
  given: Given,
  output: Output,
  folder: string,
): Promise<{
  readonly model: LoadedModel;
  readonly data: LoadedData | StreamedData;
  readonly choice: TuningChoice;
}> {
  const model = await openTuned(flags, given, output);
  const data = await loadTuningData(model, flags, output, folder);
  return { model, data, choice: await tuningChoice(flags, given, data.kind) };
}

/** Of {@link openTuning} what comes before the data. */
export async function openTuned(flags: TuningFlags, given: Given, output: Output): Promise<LoadedModel> {
  const { checkTuning } = await import("../index.ts");
  const choice = await tuningChoice(flags, given);
  checkTuning(choice);
  const { model } = await loadFlags(flags, output, headOf(flags));
  checkTuning(choice, model);
  return model;
}

/** The head that the flags ask for: its labels are those of the data. */
export function headOf(
  flags: TuningFlags,
): Pick<LoadModelOptions, "labelsFrom" | "newHead" | "newTokens" | "readOptions" | "seed"> {
  const labelsFrom = (flags.data ?? []).map((source) => dataSource(source).path); // not every command needs data
  const readOptions = readingOf(flags);
  const newTokens = flags.newTokens === undefined ? {} : { newTokens: namesOf(flags.newTokens) };
  return {
    labelsFrom,
    ...(Object.keys(readOptions).length > 0 ? { readOptions } : {}),
    newHead: flags["newHead"] === true,
    seed: Number(flags["seed"] ?? 0),
    ...newTokens,
  };
}

/** Read the data that the flags name, and say what it is; large data is streamed through a cache in `folder`. */
export async function loadTuningData(
  model: LoadedModel,
  flags: TuningFlags,
  output: Output,
  folder: string,
): Promise<LoadedData | StreamedData> {
  const { dataSize, loadData, streamData } = await import("../index.ts");
  const sources = flags.data.map(dataSource);
  const options = {
    seed: Number(flags["seed"] ?? 0),
    ...readingOf(flags),
    ...(flags.validation === undefined ? {} : { validation: flags.validation }),
    ...(flags.validationData === undefined ? {} : { validationPath: flags.validationData }),
    ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
  };
  const { sizeBytes, streams } = await dataSize(model, sources);
  const large = streams && bytesInMemory * sizeBytes > model.platform.memory().availableBytes / 4;
  const streamed = flags.stream === true || (large && (flags.validation ?? 0) < 1);
  const data = await (streamed
    ? streamData(model, sources, { ...options, folder })
    : loadData(model, sources, options));
  describeData(data, flags.data.join(", "), output);
  return data;
}

/** About what a byte of text takes in memory as rows and tokens. */
const bytesInMemory = 8;

/** `file:2` is a file whose examples come twice in an epoch. */
function dataSource(text: string): Extract<DataSource, { path: string }> {
  const [, path = text, weight] = /^(.+):(\d+(?:\.\d+)?)$/.exec(text) ?? [];
  return { path, ...(weight === undefined ? {} : { weight: Number(weight) }) };
}

function describeData(data: LoadedData, path: string, output: Output): void {
  const { format, validation, preview, report } = data;
  const { examples, tokens, trainedTokens, lengths, duplicates } = report;
  const continues = data.kind === "sequence" || data.kind === "pair"; // else what is learnt is not in the tokens
  const share = ((100 * trainedTokens) / tokens).toFixed(0);
  output.say(
    `${path}: ${count(examples)} ${format} examples, ${count(tokens)} tokens${continues ? `, ${count(trainedTokens)} of them trained (${share} %)` : ""}.`,
  );
  output.say(
    `Tokens in an example: ${count(lengths.shortest)} to ${count(lengths.longest)}, median ${count(lengths.median)}, 95 % up to ${count(lengths.p95)}.`,
  );
  if (duplicates.length > 0) {
    output.say(`Examples that say what an earlier one says: ${count(duplicates.length)} (${showLines(duplicates)}).`);
  }
  if (validation.length > 0) output.say(`${count(validation.length)} examples are held back for validation.`);
  describeReading(data, output);
  output.say(`The first example${continues ? ", with ⟦what is trained⟧" : ""}:`, ...preview.split("\n"), "");
  output.record({ kind: "data", format, validation: validation.length, ...report, ...readingRecord(data) });
}

/** Names separated by commas. */
function namesOf(text: string): readonly string[] {
  return text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
}

function selection(
  modules: NamedModules,
  rules: { readonly exclude?: NamedModules; readonly layers?: readonly number[] },
): TargetModules {
  const { exclude, ...rest } = rules;
  if (exclude === undefined && rest.layers === undefined) return modules;
  if (exclude === "all-linear") throw new InvalidArgumentError("all-linear would leave nothing to attach to.");
  return { modules, ...rest, ...(exclude === undefined ? {} : { exclude }) };
}

/** `0-3,7` is 0, 1, 2, 3 and 7. */
function layerNumbers(text: string): readonly number[] {
  return text.split(",").flatMap((part) => {
    const [, first, last = first] = /^\s*(\d+)(?:-(\d+))?\s*$/.exec(part) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (!(from <= to && to < 10_000)) throw new InvalidArgumentError(`"${part}" is no layer and no range of layers.`);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

/** `down_proj=16,up_proj=4` by module. */
function modulePattern(text: string): Readonly<Record<string, number>> {
  const entries = text.split(",").map((part): [string, number] => {
    const at = part.lastIndexOf("=");
    const value = Number(part.slice(at + 1));
    if (at < 1 || !Number.isFinite(value)) throw new InvalidArgumentError(`"${part}" is not a module=number.`);
    return [part.slice(0, at).trim(), value];
  });
  return Object.fromEntries(entries);
}

/** `batchSize` as a flag spells it: `batch-size`. */
export function dashed(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
