/**
 * Models packed as binary planes with shared scales: the format, and the plain reading of it that kernels are held
 * against. How codes and scales are found is the matter of `quant/`.
 */
export * from "./file.ts";
export * from "./matrix.ts";
export * from "./planes.ts";
export * from "./powers.ts";
