/**
 * Adapter methods, one file each, and how they attach to a model's graph.
 * Nothing here knows a model, a file format or the training loop.
 */

export * from "../fields.ts";
export * from "./adalora.ts";
export * from "./adalora-budget.ts";
export * from "./adapter.ts";
export * from "./attach.ts";
export * from "./beside-whole.ts";
export * from "./compacter.ts";
export * from "./embeddings.ts";
export * from "./full.ts";
export * from "./in-place.ts";
export * from "./initial.ts";
export * from "./linear.ts";
export * from "./lora.ts";
export * from "./lora-carried.ts";
export * from "./method.ts";

export * from "./paca.ts";
export * from "./side-by-side.ts";

export * from "./sublayers.ts";
export * from "./table.ts";
export * from "./targets.ts";
export * from "./token-rows.ts";
