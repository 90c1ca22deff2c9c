/**
 * The generators of the quickstart's data: a task (requests in plain English -> calls in JSON), a pretraining corpus
 * that shares no request with it, and the tokenizer and configuration of the model. Pure and seeded; reading and
 * writing files is left to `scripts/make-quickstart-data.ts`.
 */
import { trainBpe } from "./bpe.ts";
import { makeCorpus } from "./corpus.ts";
import { generationConfig, modelConfig } from "./model.ts";
import { requestFinder } from "./overlap.ts";
import type { Request } from "./requests.ts";
import { makeTaskData, type TaskData } from "./split.ts";
import { marks, tokenizerConfig, tokenizerJson } from "./tokenizer.ts";

/** The seed of everything here. */
export const seed = 2026;

/** Documents drawn for pretraining, requests for training and requests held out. */
export const sizes = { documents: 26_000, train: 4000, heldout: 480 } as const;

const merges = { wordMerges: 650, spaceMerges: 112 } as const; // with 256 bytes and 6 marks: 1,024 tokens
const tokenizerDocuments = 6000; // enough for stable counts

/** All data: the task, the pretraining documents, and the text of each file under `assets/quickstart`. */
export interface QuickstartData {
  readonly task: TaskData;
  readonly corpus: readonly string[];
  readonly files: Readonly<Record<string, string>>;
}

/**
 * Make everything, the same each time. Documents that hold a request by chance (the echoes are random words) are left
 * out of the corpus, and the tokenizer learns from that corpus alone.
 */
export function makeQuickstartData(): QuickstartData {
  const task = makeTaskData(seed, sizes);
  const requestsIn = requestFinder([...task.train, ...task.heldout].map(({ text }) => text));
  const corpus = makeCorpus(seed, sizes.documents).filter((document) =>
    withoutMarks(document).every((text) => requestsIn(text).length === 0),
  );
  const bpe = trainBpe(corpus.slice(0, tokenizerDocuments).flatMap(withoutMarks), merges);
  const files = {
    "train.jsonl": task.train.map(row).join(""),
    "heldout.jsonl": task.heldout.map(row).join(""),
    "model/tokenizer.json": json(tokenizerJson(bpe)),
    "model/tokenizer_config.json": json(tokenizerConfig()),
    "model/config.json": json(modelConfig(marks.length + bpe.tokens.length)),
    "model/generation_config.json": json(generationConfig()),
  };
  return { task, corpus, files };
}

/** The stretches of a document between its `<|…|>` marks. */
export function withoutMarks(document: string): string[] {
  return document.split(/<\|\w+\|>/).filter((text) => text !== "");
}

function row({ text, call }: Request): string {
  return `${JSON.stringify({
    messages: [
      { role: "user", content: text },
      { role: "assistant", content: call },
    ],
  })}\n`;
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 1)}\n`;
}
