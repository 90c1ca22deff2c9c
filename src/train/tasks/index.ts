/**
 * What models are tuned for, one file each: what rows of data look like, what examples they become, and how what a
 * model says of them is judged. What is minimised is an objective, and what a model computes is its own.
 */
import type { Labels, TaskName } from "../../models/index.ts";
import { causalLm } from "./causal.ts";
import { sequenceClassification } from "./classify.ts";
import { sentenceEmbedding } from "./embed.ts";
import { sorted } from "./examples.ts";
import { imageClassification } from "./images.ts";
import { multiLabelClassification, multiLabelImageClassification } from "./multi-label.ts";
import { regression } from "./regress.ts";
import { seq2seqLm } from "./seq2seq.ts";
import { tokenClassification } from "./tag.ts";
import type { Task } from "./task.ts";

export type { ExampleContext, Judgement, Task } from "./task.ts";

/** Every task by the name that models have for it. */
export const tasks: Readonly<Record<TaskName, Task>> = {
  "causal-lm": causalLm,
  "sequence-classification": sequenceClassification,
  "multi-label-classification": multiLabelClassification,
  regression,
  "token-classification": tokenClassification,
  "sentence-embedding": sentenceEmbedding,
  "image-classification": imageClassification,
  "multi-label-image-classification": multiLabelImageClassification,
  "seq2seq-lm": seq2seqLm,
};

/** Their names. */
export const taskNames: readonly TaskName[] = Object.keys(tasks) as TaskName[]; // its keys

/** The labels of several files as one list. */
export function mergeLabels(files: readonly Labels[]): Labels {
  return sorted(files.flat());
}
