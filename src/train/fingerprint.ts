import { listing, TuneError } from "../errors.ts";
import { bytesOf, type LazyTensor } from "../graph/index.ts";
import { contentHash } from "../io/content-hash.ts";
import { showTargets } from "../methods/index.ts";
import { type ExampleStore, storeOf, type TokenizedExample } from "./data/index.ts";
import { decisiveSettings } from "./privacy.ts";
import type { RunOptions } from "./run.ts";

/** What a result depends on, small enough to keep beside it: by name, as JSON. */
export type Facts = Readonly<Record<string, unknown>>;

/** What decides a run. */
export type FactOptions = Required<
  Pick<RunOptions, "settings" | "choice" | "targets" | "objective" | "model" | "train" | "mixture" | "validation">
> &
  Pick<RunOptions, "padId" | "initial" | "facts" | "attention">;

/**
 * What decides a run's losses: the settings, the method, the model's configuration and weights, its tokenizer, and the data
 * as token ids, all by content. Two runs with equal fingerprints on equal machines go through equal losses.
 */
export async function fingerprintOf(options: FactOptions): Promise<Facts> {
  return { ...(await factsOf(options)), weights: await hashWeights(options.model) };
}

/** The same without the weights, which take as long to hash as to read. */
export async function factsOf(options: FactOptions): Promise<Facts> {
  const { settings, choice, targets, objective, model, mixture, initial, facts } = options;
  // What only decides when a run looks at itself or stops may change between its parts.
  const { checkpointEvery: _checkpointEvery, patience: _patience, ...decisive } = decisiveSettings(settings);
  const trained = [...(initial ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    ...decisive,
    objective: objective.objective.name,
    objectiveOptions: objective.config,
    method: choice.method.name,
    methodOptions: choice.config,
    ...(choice.patterns === undefined ? {} : { patterns: choice.patterns }),
    ...(choice.inPlace === undefined ? {} : { inPlace: choice.inPlace }),
    targetModules: Array.isArray(targets) ? targets : showTargets(targets),
    ...modelFacts(model),
    ...(options.attention === undefined ? {} : { attention: contentHash(JSON.stringify(options.attention)) }),
    ...facts,
    padId: options.padId,
    ...(initial === undefined
      ? {}
      : {
          initial: contentHash(...trained.flatMap(([name, { shape, data }]) => [`${name} ${shape};`, bytesOf(data)])),
        }),
    trainData: await hashExamples(options.train),
    ...(mixture.length === 1 && mixture[0]?.weight === 1 ? {} : { mixture }),
    validationData: await hashExamples(options.validation),
  };
}

/** A hash of examples as token ids, with what is learnt of them. */
export async function hashExamples(examples: readonly TokenizedExample[] | ExampleStore): Promise<string> {
  return (await storeOf(examples)).hash;
}

/** Keys of `config.json` that change nothing: who wrote it, from where, and what its weights were held in. */
const inert: ReadonlySet<string> = new Set(["transformers_version", "_name_or_path", "torch_dtype", "dtype"]);

/** What a model's configuration says that its results depend on. */
export function modelFacts({ modelType, task, json }: RunOptions["model"]): Facts {
  const config = Object.fromEntries(Object.entries(json).filter(([key]) => !inert.has(key)));
  return { modelType, task, config };
}

/** Ask for the weights to be hashed as they are read, so that {@link hashWeights} need not read them again. */
export function hashWhileReading({ weights }: RunOptions["model"]): void {
  for (const { source } of weights.values()) source.content?.hashWhenRead();
}

/** A hash of all weights of a model, by their names. What was hashed while it was read is not read again. */
export async function hashWeights({ weights }: RunOptions["model"]): Promise<string> {
  const parts: string[] = [];
  for (const [name, { source }] of [...weights].sort(([a], [b]) => (a < b ? -1 : 1))) {
    parts.push(`${name} ${source.shape.join()} ${await hashTensor(source)}\n`);
  }
  return contentHash(...parts);
}

/** A hash of a tensor's content: of what its file holds, where it is in one. */
async function hashTensor(source: LazyTensor): Promise<string> {
  if (source.content) return source.content.hash();
  const known = hashes.get(source);
  if (known !== undefined) return known;
  const hash = contentHash(bytesOf((await source.read()).data));
  hashes.set(source, hash);
  return hash;
}

const hashes = new WeakMap<LazyTensor, string>();

/** How to mend a difference, by the fact that it is in. */
const mending: Readonly<Record<string, string>> = {
  weights: "the model's weights are others: use the model that it was started with",
  config: "config.json says something else: put it back as it was",
  tokenizer: "the tokenizer's files are others: put them back as they were",
  trainData: "the training data is other, or is cut into tokens otherwise: use the data that it was started with",
  validationData: "other rows are held back: use the data and options that it was started with",
};

/**
 * Refuse to go on with other settings, model or data than something was started with.
 * @throws {TuneError} `resume-mismatch` listing every difference.
 */
export function checkFingerprint(saved: Facts, now: Facts, at: string): void {
  const differences = differencesOf(JSON.parse(JSON.stringify(saved)), JSON.parse(JSON.stringify(now)), "");
  if (differences.length === 0) return;
  const shown = differences.slice(0, 20).map(({ name, before, after }) => `${name}: ${before} then, ${after} now`);
  if (differences.length > shown.length) shown.push(`and ${differences.length - shown.length} more`);
  const roots = new Set(differences.map(({ name }) => name.split(".")[0] ?? ""));
  const known = [...roots].flatMap((root) => mending[root] ?? []);
  const settings = [...roots].filter((root) => mending[root] === undefined);
  const fixes = [...known, ...(settings.length > 0 ? [`give ${settings.join(", ")} as they were then`] : [])];
  throw new TuneError("resume-mismatch", listing(`The run was started differently:`, shown), {
    at,
    fix: `${fixes.join("; ")}; or start a new run in another folder`,
  });
}

interface Difference {
  readonly name: string;
  readonly before: string;
  readonly after: string;
}

/** What differs between two values of JSON, whatever the order of their keys. */
function differencesOf(before: unknown, after: unknown, name: string): readonly Difference[] {
  if (isRecord(before) && isRecord(after)) {
    const keys = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    return keys.flatMap((key) => differencesOf(before[key], after[key], name === "" ? key : `${name}.${key}`));
  }
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  return [{ name, before: shown(before), after: shown(after) }];
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
