/** Passes over graphs that know no method and no model: differentiation, rewriting, folding, reference evaluation. */
export * from "./broadcast-late.ts";
export * from "./columns-early.ts";
export * from "./compose.ts";
export * from "./differentiate.ts";
export * from "./evaluate.ts";
export * from "./fold.ts";
export * from "./gather-early.ts";
export * from "./hold-weights.ts";
export * from "./precise.ts";
export * from "./recompute.ts";
export * from "./rewrite.ts";
export * from "./share.ts";
export * from "./sparse.ts";
export * from "./stack.ts";
export * from "./sum-products.ts";
export * from "./unpacked.ts";
