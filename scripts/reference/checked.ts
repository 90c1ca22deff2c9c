import { code } from "./markdown.ts";

/** What tests hold something against, and which tests: files by their path from the root. */
export interface Check {
  readonly against: string;
  readonly tests: readonly string[];
}

/** What records are of. */
export type Kind =
  | "methods"
  | "objectives"
  | "optimizers"
  | "memory"
  | "baseWeights"
  | "schedules"
  | "schemes"
  | "exports"
  | "data"
  | "files"
  | "tasks";

/** A check, in a line. */
export function by(against: string, ...tests: readonly string[]): Check {
  return { against, tests };
}

const golden = "tests/golden.test.ts";
const exported = "src/export/export.test.ts";
const adapterHub = "tests/adapterhub.test.ts";
const adapterHubLibrary = "tests/adapterhub-library.test.ts";
const compacterOracles = "src/methods/compacter.test.ts";
const encoders = "tests/encoders.test.ts";
const preference = "tests/preference.test.ts";
const levers = "tests/levers.test.ts";
const sweep = "src/quant/sweep.test.ts";
const tokenize = "src/train/data/tokenize.test.ts";
const formats = "src/train/data/formats.test.ts";
const read = "src/train/data/read.test.ts";
const streaming = "tests/streaming.test.ts";
const mutations = "tests/mutations.test.ts";
const tasks = "tests/tasks.test.ts";
const rows = "src/train/tasks/rows.test.ts";

const sublayers = by(
  "AdapterHub's library: losses of ten updates (Llama, BERT, T5); its formulas in torch: outputs and every gradient; float64 arithmetic; the paper's share of T5-base's parameters",
  adapterHubLibrary,
  adapterHub,
  compacterOracles,
);

const schedule = by("transformers: the rate of every update, with warm-up and without", "src/optim/schedule.test.ts");
const blockCodes = by(
  "losses of the float32 model that its codes stand for, by LoRA, DoRA and PaCA",
  "src/train/block-codes.test.ts",
);
const reader = "src/train/data/reader.test.ts";
const scores = "src/train/scores.test.ts";

/** By the kind of record and its name. The pages ask for each, and a test that each is asked for. */
export const checked: Readonly<Record<Kind, Readonly<Record<string, Check>>>> = {
  methods: {
    lora: by(
      "PEFT: losses over 50 updates (10 in every family), logits with adapters that either wrote",
      golden,
      exported,
    ),
    dora: by("PEFT: losses over 50 updates, logits with its adapters", golden, exported),
    adalora: by(
      "PEFT: losses, penalties and what is pruned over 50 updates, logits with its adapters, its allocator's numbers",
      "tests/adalora.test.ts",
      exported,
      "src/methods/adalora.test.ts",
    ),
    paca: by(
      "LoRA whose A picks columns, over 50 updates; the columns of the full gradient; float64 arithmetic of a layer",
      "tests/paca.test.ts",
      "src/methods/paca.test.ts",
    ),
    alpha: by(
      "the packed model's loss at the start; the same loss beside it, folded in, from its file and packed again",
      "src/compress/tune-scales.test.ts",
    ),
    compacter: sublayers,
    "compacter++": sublayers,
    phm: by(
      "AdapterHub's library: losses of ten updates (Llama, BERT, T5); its formulas in torch: outputs and every gradient (T5); the paper's share of T5-base's parameters",
      adapterHubLibrary,
      adapterHub,
      compacterOracles,
    ),
    bottleneck: by(
      "AdapterHub's library: losses of ten updates (Llama, BERT, T5); its formulas in torch: outputs and every gradient (BERT, T5); the paper's share of T5-base's parameters",
      adapterHubLibrary,
      adapterHub,
      compacterOracles,
    ),
    full: by("torch: every gradient, and losses over 10 updates (Llama, GPT-2)", golden),
  },
  objectives: {
    "causal-lm": by("transformers and torch: loss and every gradient (Llama, GPT-2)", golden),
    dpo: by("TRL's formulas in torch: losses, gradient norms and rewards over 20 updates", preference),
    ipo: by("TRL's formulas in torch: losses, gradient norms and rewards over 20 updates", preference),
    classification: by("torch: PEFT's losses over 10 updates (BERT, RoBERTa, DeBERTa, ViT)", encoders),
    "multi-label-classification": by(
      "transformers' own loss and every gradient (BERT, ViT); PEFT's losses over 10 updates (BERT, RoBERTa, DeBERTa, ViT)",
      encoders,
    ),
    regression: by(
      "transformers' own loss and every gradient (BERT, three scores); PEFT's losses over 10 updates (BERT; with three scores RoBERTa and DeBERTa too)",
      encoders,
    ),
    "token-classification": by("torch: PEFT's losses over 10 updates (BERT, RoBERTa, DeBERTa)", encoders),
    contrastive: by("torch: loss and every gradient (BERT)", "tests/embeddings.test.ts"),
    cosine: by("torch: loss and every gradient (BERT)", "tests/embeddings.test.ts"),
    "seq2seq-lm": by("torch: PEFT's losses over 10 updates (T5, gated and not)", encoders),
  },
  optimizers: {
    adamw: by("torch.optim.AdamW: losses over 50 updates", golden),
    adamw8bit: by(
      "AdamW: losses over 50 updates within 0.2 %; every value rounded to the nearest, against a search",
      "src/optim/optim.test.ts",
    ),
    sgd: by(
      "torch.optim.SGD: losses over 30 updates, plain, with momentum, with Nesterov's",
      "src/optim/optim.test.ts",
    ),
  },
  memory: {
    fast: by("the gradients of `balanced`, bit for bit", levers),
    balanced: by(
      "PEFT's and torch's losses are gone through with it; the gradients of `fast`, bit for bit",
      golden,
      levers,
    ),
    small: by("the gradients of `fast` to 10⁻⁵", levers),
  },
  baseWeights: {
    f32: by("PEFT's and torch's losses are gone through with it", golden),
    f16: by(
      "losses of `f32`: bit for bit where the file is float16, else within 2·10⁻⁴; half the bytes",
      "src/train/base-weights.test.ts",
    ),
    bf16: by(
      "losses of `f32`: bit for bit where the file is bfloat16, else within 2·10⁻³",
      "src/train/base-weights.test.ts",
    ),
    q8: blockCodes,
    q4: blockCodes,
  },
  schedules: { constant: schedule, linear: schedule, cosine: schedule },
  schemes: {
    shiftadd: by(
      "a float64 reference of Algorithm 1: codes, scales and errors of worked examples; the paper's order of errors",
      "src/quant/binary-code.test.ts",
      sweep,
    ),
    gptq: by("a float64 reference: the inverse Hessian's factor, and the error of a worked example", sweep),
    bcq: by("a float64 reference: the error of a worked example, swept and not", sweep),
    rtn: by("a float64 reference: the error of a worked example", sweep),
  },
  exports: {
    "transformers.js": by(
      "transformers.js generates what Scion generates, for every family, and its pipelines say what Scion says (BERT, ViT, T5); logits in fewer bits",
      "tests/transformers-js.test.ts",
      "tests/pipelines.test.ts",
    ),
    safetensors: by(
      "PEFT's logits when it is read back, the same from shards; names and shapes are those of transformers' file",
      exported,
    ),
    gguf: by(
      "parsed by @huggingface/gguf; llama.cpp generates what Scion generates, for every family",
      "tests/gguf.test.ts",
    ),
    peft: by("PEFT's logits with adapters that Scion wrote are Scion's", exported, "tests/new-tokens.test.ts"),
    lora: by("the same logits as the adapter it was made of", exported),
    mlx: by("read back; the logits stay what they were", exported),
    adapterhub: by(
      "what its library wrote, read and written again: the same config to the byte, the same names, shapes and values",
      adapterHubLibrary,
      "tests/compacter.test.ts",
      adapterHub,
    ),
    "gguf-lora": by("llama.cpp generates with it what Scion generates", "tests/gguf.test.ts"),
    scales: by("the same loss as the packed model with these scales", "src/compress/tune-scales.test.ts"),
    packed: by("the same loss as the scales beside the model they were made for", "src/compress/tune-scales.test.ts"),
  },
  data: {
    messages: by(
      "what the assistant said in random conversations; templates as transformers renders them",
      tokenize,
      "src/io/jinja/jinja.test.ts",
    ),
    "prompt/completion": by("tokens and labels written out by hand", tokenize),
    "question/answer": by("the tokens of prompt and completion", "tests/data-cases.test.ts"),
    text: by("documents and tokens written out by hand, none lost where they are split", read, tokenize),
    alpaca: by("the tokens of the same conversation; Alpaca's prompt where there is no template", formats),
    sharegpt: by("the tokens of the same messages", formats),
    preference: by("TRL's forms, texts and conversations, written out by hand", tokenize),
  },
  files: {
    jsonl: by("rows and lines written out by hand; read in pieces as whole; damaged files", read, streaming, mutations),
    ndjson: by("rows written out by hand", read),
    json: by("rows written out by hand", read),
    csv: by(
      "quoted fields and lines written out by hand; read in pieces as whole; damaged files",
      read,
      streaming,
      mutations,
    ),
    tsv: by("rows written out by hand", read),
    parquet: by("files of hyparquet-writer; read in pieces as whole; damaged files", read, streaming, mutations),
    txt: by("documents written out by hand", read),
  },
  tasks: {
    "sequence-classification": by(
      "transformers' tokens of texts and pairs; rows in every format; scores worked by hand",
      reader,
      rows,
      scores,
    ),
    "multi-label-classification": by(
      "transformers' tokens of texts and pairs; rows in every format, and every way to write labels; scores worked by hand",
      reader,
      rows,
      scores,
    ),
    regression: by(
      "transformers' tokens of texts and pairs; rows in every format; scores worked by hand",
      reader,
      rows,
      scores,
    ),
    "token-classification": by(
      "transformers' tokens and where words begin; rows in every format; spans worked by hand",
      reader,
      rows,
      scores,
    ),
    "sentence-embedding": by("transformers' tokens; rows in every format; scores worked by hand", reader, rows, scores),
    "image-classification": by(
      "Pillow's pixels; rows, and folders called as their labels",
      "src/train/data/image.test.ts",
      rows,
      tasks,
    ),
    "multi-label-image-classification": by(
      "Pillow's pixels; rows in every format; scores worked by hand",
      "src/train/data/image.test.ts",
      rows,
      scores,
    ),
    "seq2seq-lm": by("transformers' tokens; rows in every format", reader, rows),
  },
};

/** What a record is held against. @throws when nobody has said it. */
export function checkOf(kind: Kind, name: string): Check {
  const found = checked[kind][name];
  if (found === undefined) throw new Error(`scripts/reference/checked.ts says nothing of ${kind} ${name}`);
  return found;
}

/** A check in words, with its tests: by their paths, as the pages are shipped without them. */
export function inWords({ against, tests }: Check): string {
  return `${against} (${tests.map(code).join(", ")})`;
}
