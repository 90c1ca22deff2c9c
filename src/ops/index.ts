/**
 * One record per ONNX operator (types, float64 reference, gradient, cost, samples) and a builder function beside it.
 * It knows no method, no model and no runtime; passes over graphs live in `transforms/`.
 */
export * from "./activations.ts";
export * from "./attention.ts";
export * from "./composite.ts";
export * from "./elementwise.ts";
export * from "./indexing.ts";
export * from "./matmul.ts";
export * from "./normalise.ts";
export * from "./op.ts";
export * from "./quantise.ts";
export * from "./reduce.ts";
export * from "./reference.ts";
export * from "./shape.ts";
export * from "./sizes.ts";
export * from "./table.ts";
