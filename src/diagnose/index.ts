/**
 * What tuning did to the weights: singular vectors of tuned matrices that the base has nothing like (intruder dimensions,
 * Shuttleworth et al. 2024, arXiv 2410.21228), how large the update is and over how many directions it spreads; and the
 * mending of it. Drawing is here too, as text; people's words for warnings are left to the command line.
 */
export * from "./base-svd.ts";
export * from "./diagnose.ts";
export * from "./file-pairs.ts";
export * from "./journal.ts";
export * from "./mend.ts";
export * from "./pairs.ts";
export * from "./pictures.ts";
export * from "./products.ts";
export * from "./report.ts";
export * from "./report-page.ts";
export * from "./settings.ts";
export * from "./spectrum.ts";
export * from "./update.ts";
export * from "./walk.ts";
