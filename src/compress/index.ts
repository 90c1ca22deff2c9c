/**
 * Whole models quantised: the inputs of every linear map on calibration text, block by block; bits spent where they
 * help; what it all takes. How one matrix is quantised is the matter of `quant/`.
 */
export * from "./memory.ts";
export * from "./quantise-model.ts";
export * from "./quantise-tensors.ts";
export * from "./report.ts";
export * from "./tune-scales.ts";
export * from "./work-folder.ts";
