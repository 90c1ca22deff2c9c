/** Passes over graphs that know no method and no model: differentiation, rewriting, folding, reference evaluation. */
export * from "./differentiate.ts";
export * from "./evaluate.ts";
export * from "./fold.ts";
export * from "./recompute.ts";
export * from "./rewrite.ts";
export * from "./sparse.ts";
export * from "./unpacked.ts";
