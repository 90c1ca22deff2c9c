import type { JsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { type Adapter, showTargets } from "../methods/index.ts";
import type { TaskName } from "../models/index.ts";

/** Files beside the weights that a model needs to be used, taken along as they are when they are there. */
const companions = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "generation_config.json",
  "chat_template.jinja",
  "chat_template.json",
  "preprocessor_config.json",
  "LICENSE",
  "LICENSE.txt",
  "LICENSE.md",
];

/** Copy the tokenizer, generation settings and licence of a model folder. */
export async function copyCompanions(storage: Storage, from: string, to: string): Promise<void> {
  const present = new Set(await storage.list(from));
  for (const name of companions.filter((file) => present.has(file))) {
    await storage.write(joinPath(to, name), await storage.read(joinPath(from, name)));
  }
}

/** Copy the licence of a model folder. */
export async function copyLicence(storage: Storage, from: string, to: string): Promise<void> {
  for (const name of (await storage.list(from)).filter((file) => /^LICENSE(\.txt|\.md)?$/.test(file))) {
    await storage.write(joinPath(to, name), await storage.read(joinPath(from, name)));
  }
}

/** Write JSON as people read it. */
export async function writeJson(storage: Storage, path: string, value: JsonObject): Promise<void> {
  await storage.write(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** `config.json` of weights that are now float32, whatever they were. */
export function float32Config(json: JsonObject, className: string): JsonObject {
  const { quantization_config: _quantization, torch_dtype: _torchDtype, preprocessor: _preprocessor, ...rest } = json;
  return { ...rest, architectures: rest["architectures"] ?? [className], dtype: "float32" };
}

/** What the hub calls what a model is for. */
const pipelineTags: Readonly<Record<TaskName, string>> = {
  "causal-lm": "text-generation",
  "sequence-classification": "text-classification",
  regression: "text-classification",
  "token-classification": "token-classification",
  "sentence-embedding": "feature-extraction",
  "image-classification": "image-classification",
  "seq2seq-lm": "text2text-generation",
};

/** What is said of a model that is written. */
export interface CardOptions {
  readonly baseModel: string;
  /** What the weights were tuned with. */
  readonly adapter?: Adapter;
}

/** A model card: what was done to which model, and whom to cite. */
export function modelCard(
  options: CardOptions & {
    readonly title: string;
    readonly library: string;
    /** Continuing texts unless given. */
    readonly task?: TaskName;
  },
): string {
  const { title, baseModel, library, adapter, task = "causal-lm" } = options;
  const lines = [
    "---",
    `base_model: ${baseModel}`,
    `library_name: ${library}`,
    `pipeline_tag: ${pipelineTags[task]}`,
    "tags:",
    "- scion",
    ...(adapter ? [`- ${adapter.choice.method.name}`] : []),
    "---",
    "",
    `# ${title}`,
    "",
    `Made with Scion from [${baseModel}](https://huggingface.co/${baseModel}).`,
  ];
  if (adapter) {
    const { method, config } = adapter.choice;
    const settings = Object.entries(config).map(([name, value]) => `${name} ${value}`);
    const { modules = [], biases = "none" } = adapter.choice.inPlace ?? {};
    const besides = [...modules, ...(biases === "none" ? [] : [`biases (${biases})`])];
    const where = [showTargets(adapter.targets), ...(besides.length > 0 ? ["with", besides.join(", ")] : [])].join(" ");
    lines.push("", `Tuned by ${method.name}${settings.length > 0 ? ` (${settings.join(", ")})` : ""} on ${where}.`);
    if (method.cite) {
      const { title: paper, authors, year, arxiv } = method.cite;
      lines.push("", `${authors}. *${paper}*. ${year}. arXiv ${arxiv}.`);
    }
  }
  return `${lines.join("\n")}\n`;
}
