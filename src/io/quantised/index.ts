/**
 * Checkpoints that other tools quantised: how their matrices are recognised, and the formulas that give plain weights. What
 * Scion quantises itself is the matter of `io/packed/` and `quant/`.
 */
export * from "./format.ts";
export * from "./open.ts";
export * from "./settings.ts";
export * from "./table.ts";
