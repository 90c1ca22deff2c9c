import type { TaskName } from "../models/index.ts";

/** What the pipelines of transformers.js 4 make of a model that is not what it says. */
const notes: Readonly<Partial<Record<TaskName, string>>> = {
  regression:
    "The text-classification pipeline of transformers.js takes the softmax of all outputs, which are scores here. Read the " +
    "`logits` of the model instead (AutoModelForSequenceClassification).",
  "multi-label-image-classification":
    "The image-classification pipeline of transformers.js takes the softmax over all labels, each of which stands by itself " +
    "here. Take the sigmoid of the model's `logits` instead (AutoModelForImageClassification).",
};

/** What is to be known before a model of a task is run in a pipeline of transformers.js; undefined where nothing is. */
export function pipelineNote(task: TaskName): string | undefined {
  return notes[task];
}
