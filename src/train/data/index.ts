/**
 * Training data: files to checked rows, rows to tokens with the labels marked, tokens to batches.
 * Everything but reading the file is a pure function; randomness comes from a seed. It leaves out the loss and the loop,
 * and words no warnings: they are returned as data.
 */
export * from "./batches.ts";
export type { Columns } from "./columns.ts";
export type { EncodeContext, EncodedRow, EncodeNote } from "./encode.ts";
export * from "./formats.ts";
export * from "./order.ts";
export * from "./partition.ts";
export * from "./preview.ts";
export type { LineProblem } from "./problems.ts";
export * from "./read.ts";
export * from "./report.ts";
export * from "./source.ts";
export * from "./split.ts";
export * from "./store.ts";
export * from "./stream.ts";
export * from "./tokenize.ts";
