import { isJsonObject, readJsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import { type Adapter, type Cited, type PrivacyRecord, type RunRecord, showTargets } from "../methods/index.ts";
import type { TaskName } from "../models/index.ts";
import { bibtex } from "./bibtex.ts";
import { pipelineNote } from "./pipeline-notes.ts";

/** What the hub calls what a model is for. */
const pipelineTags: Readonly<Record<TaskName, string>> = {
  "causal-lm": "text-generation",
  "sequence-classification": "text-classification",
  "multi-label-classification": "text-classification",
  regression: "text-classification",
  "token-classification": "token-classification",
  "sentence-embedding": "feature-extraction",
  "image-classification": "image-classification",
  "multi-label-image-classification": "image-classification",
  "seq2seq-lm": "text2text-generation",
};

/** What is said of a model or an adapter that is written. */
export interface CardOptions {
  readonly baseModel: string;
  /** What the weights were tuned with. */
  readonly adapter?: Adapter;
  /** Whether an adapter takes the tokenizer's files along, because they are not the base model's. */
  readonly withTokenizer?: boolean;
}

/** What a folder is called, and what is in it. */
export function titleOf(folder: string): string {
  return (
    folder
      .replace(/[\\/]+$/, "")
      .split(/[\\/]/)
      .at(-1) || "model"
  );
}

/** The file that keeps a run's record beside an adapter, for cards of what is made of it later. */
export const runRecordFile = "scion-run.json";

/** The record of the run that left an adapter; undefined where there is none. */
export async function readRunRecord(storage: Storage, folder: string): Promise<RunRecord | undefined> {
  if (!(await storage.list(folder)).includes(runRecordFile)) return undefined;
  const path = joinPath(folder, runRecordFile);
  const { step, steps, ended, best, privacy, facts, cites } = await readJsonObject(storage, path);
  if (!Number.isSafeInteger(step) || !Number.isSafeInteger(steps) || !isJsonObject(facts) || !Array.isArray(cites)) {
    return undefined; // not ours: it only adds to a card
  }
  return {
    step: Number(step),
    steps: Number(steps),
    ended: String(ended),
    ...(isJsonObject(best) ? { best: { step: Number(best["step"]), loss: Number(best["loss"]) } } : {}),
    ...(isPrivacy(privacy) ? { privacy } : {}),
    facts,
    cites: cites.filter(isCited),
  };
}

function isPrivacy(value: unknown): value is PrivacyRecord {
  if (!isJsonObject(value) || !isJsonObject(value["spent"]) || typeof value["unit"] !== "string") return false;
  const { delta, noiseMultiplier, clip, samplingRate, made, spent } = value;
  const { rdp, prv } = spent as { readonly rdp?: unknown; readonly prv?: unknown }; // looked at just above
  return [delta, noiseMultiplier, clip, samplingRate, made, rdp, prv].every(Number.isFinite);
}

function isCited(value: unknown): value is Cited {
  if (!isJsonObject(value)) return false;
  return ["title", "authors", "arxiv"].every((key) => typeof value[key] === "string") && Number.isFinite(value["year"]);
}

/** The files that say what something is: its card, and the record of its run. By name. */
export async function cardFiles(
  storage: Storage,
  modelFolder: string,
  options: CardOptions & { readonly title: string; readonly library: string; readonly task?: TaskName },
): Promise<Readonly<Record<string, string>>> {
  const licence = await licenceOf(storage, modelFolder);
  const run = options.adapter?.run;
  return {
    "README.md": modelCard({ ...options, ...(licence === undefined ? {} : { licence }) }),
    ...(run ? { [runRecordFile]: `${JSON.stringify(run, null, 2)}\n` } : {}),
  };
}

/** The licence that a model's own card states, as the hub spells it. */
async function licenceOf(storage: Storage, folder: string): Promise<string | undefined> {
  const names = await storage.list(folder);
  if (!names.includes("README.md")) return undefined;
  const text = await readText(storage, joinPath(folder, "README.md"));
  const [, front = ""] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text) ?? [];
  return /^license:\s*["']?([\w.-]+)["']?\s*$/m.exec(front)?.[1];
}

/** A model card: what was done to which model, on what, under which licence, and whom to cite. */
export function modelCard(
  options: CardOptions & {
    readonly title: string;
    readonly library: string;
    readonly licence?: string;
    /** Continuing texts unless given. */
    readonly task?: TaskName;
  },
): string {
  const { title, baseModel, library, adapter, licence, task = "causal-lm" } = options;
  const run = adapter?.run;
  const note = library === "transformers.js" ? pipelineNote(task) : undefined;
  const onHub = /^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(baseModel);
  const named = onHub ? `[${baseModel}](https://huggingface.co/${baseModel.replace(/@.*/, "")})` : `\`${baseModel}\``;
  const lines = [
    "---",
    `base_model: ${onHub ? baseModel.replace(/@.*/, "") : JSON.stringify(baseModel)}`,
    `library_name: ${library}`,
    ...(licence === undefined ? [] : [`license: ${licence}`]),
    `pipeline_tag: ${pipelineTags[task]}`,
    "tags:",
    "- scion",
    ...(adapter ? [`- ${adapter.choice.method.name}`] : []),
    "---",
    "",
    `# ${title}`,
    "",
    `Made with Scion from ${named}.`,
    ...(note === undefined ? [] : ["", note]),
    ...(adapter ? ["", describeAdapter(adapter)] : []),
    ...(run ? describeTraining(run) : []),
    "",
    "## Licence",
    "",
    licence === undefined
      ? "The base model's files state no licence. What is made of it is under its terms: look them up before sharing this."
      : `The base model is under \`${licence}\`, and so is what is made of it.`,
  ];
  const cited = citations(adapter);
  if (cited.length > 0) lines.push("", "## Citations", "", "```bibtex", cited.map(bibtex).join("\n\n"), "```");
  return `${lines.join("\n")}\n`;
}

function describeAdapter({ choice, targets }: Adapter): string {
  const { method, config } = choice;
  const settings = Object.entries(config).map(([name, value]) => `${name} ${value}`);
  const { modules = [], biases = "none", tokens = {} } = choice.inPlace ?? {};
  const rows = Object.entries(tokens).map(([module, ids]) => `${ids.length} tokens of ${module}`);
  const besides = [...modules, ...(biases === "none" ? [] : [`biases (${biases})`]), ...rows];
  const where = [showTargets(targets), ...(besides.length > 0 ? ["with", besides.join(", ")] : [])].join(" ");
  return `Tuned by ${method.name}${settings.length > 0 ? ` (${settings.join(", ")})` : ""} on ${where}.`;
}

/** Hashes stand in a section of their own, or are for resuming alone; the model has its own `config.json`. */
const elsewhere = /^(trainData|validationData|modelType|task|config|tokenizer|weights|padId|initial)$/;

/** What a private run promises of each of its examples. */
function describePrivacy({
  unit,
  delta,
  spent,
  noiseMultiplier,
  clip,
  samplingRate,
  made,
}: PrivacyRecord): readonly string[] {
  return [
    "",
    "## Privacy",
    "",
    `Tuned with differential privacy (DP-SGD): with or without any one ${unit} of the training data, what is in this folder is as likely to within epsilon ${spent.prv.toFixed(2)} at delta ${delta.toExponential()} (${spent.rdp.toFixed(2)} by the Rényi accountant).`,
    `Noise ${noiseMultiplier.toPrecision(4)} times the clip ${clip}, batches drawn with probability ${samplingRate.toPrecision(4)} (Poisson), ${made} updates.`,
  ];
}

function describeTraining({ step, steps, ended, best, privacy, facts }: RunRecord): readonly string[] {
  const settings = Object.entries(facts)
    .filter(([name]) => !elsewhere.test(name))
    .flatMap(([name, value]) =>
      name.endsWith("Options") && isJsonObject(value) ? Object.entries(value) : [[name, value] as const],
    );
  return [
    "",
    "## Training",
    "",
    `${step} of ${steps} updates (${ended}).${best ? ` Lowest validation loss: ${best.loss.toFixed(4)}, at update ${best.step}.` : ""}`,
    "",
    "| setting | value |",
    "| --- | --- |",
    ...settings.map(([name, value]) => `| ${name} | ${typeof value === "string" ? value : JSON.stringify(value)} |`),
    ...(privacy ? describePrivacy(privacy) : []),
    ...(facts["trainData"] === undefined ? [] : describeData(facts)),
  ];
}

function describeData(facts: RunRecord["facts"]): readonly string[] {
  return [
    "",
    "## Data",
    "",
    `SHA-256 of the examples as token ids: \`${String(facts["trainData"])}\`; of those held back: \`${String(facts["validationData"])}\`.`,
  ];
}

/** What to cite: the method, and what else the run was made by. */
function citations(adapter: Adapter | undefined): readonly Cited[] {
  const all = [...(adapter?.choice.method.cite ? [adapter.choice.method.cite] : []), ...(adapter?.run?.cites ?? [])];
  return [...new Map(all.map((cited) => [cited.arxiv, cited])).values()];
}
