/**
 * Continuing text with a model on a device: decoding with a cache, sampling, exact match by generation.
 * Losses are the trainer's; this room never trains.
 */
export * from "./decoder.ts";
export * from "./evaluate.ts";
export * from "./generate.ts";
export * from "./sample.ts";
export * from "./target.ts";
