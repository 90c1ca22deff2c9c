/**
 * Quantisation of weight matrices, one file a scheme: what a matrix becomes, given what its inputs were. Which matrices
 * of a model, in what order and from which text, is the matter of `compress/`; how they are stored, of `io/packed/`.
 */
export * from "./algebra.ts";
export * from "./allocate.ts";
export * from "./energy.ts";
export * from "./hessian.ts";
export * from "./scheme.ts";
export * from "./table.ts";
