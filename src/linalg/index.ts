/**
 * Small dense algebra and randomness on plain typed arrays.
 * It imports nothing, so any room may use it; graphs, files and devices are left to the rooms above.
 */
export * from "./rng.ts";
