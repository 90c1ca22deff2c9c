import { type Dataset, dataFormats, previewExample, readDataset, tokenizeDataset } from "../data/index.ts";
import type { Task } from "./task.ts";

/** Texts to continue. */
export const causalLm: Task = {
  summary: "continue texts",
  shownBy: "chat",
  formats: dataFormats,
  streams: true,
  splits: true,
  read: readDataset,
  kindOf: ({ against }) => (against ? "pair" : "sequence"),
  examples: async (dataset, { tokenizer, maxLength, tooLong, skipBadRows }) =>
    tokenizeDataset(dataset as Dataset, await tokenizer(), {
      maxLength,
      ...(skipBadRows ? { skipBadRows } : {}),
      tooLong: tooLong ?? (dataset.format.name === "text" ? "split" : "truncate"),
    }), // its formats are all of `dataFormats`
  show: async (example, { tokenizer }) => previewExample(example, await tokenizer()),
};
