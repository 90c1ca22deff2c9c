/** Update rules, clipping and learning-rate schedules, as pieces of graph or plain functions of the step. */
export * from "./clip.ts";
export * from "./optimizer.ts";
export * from "./schedule.ts";
export * from "./table.ts";
