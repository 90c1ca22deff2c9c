/**
 * What training minimises, one file each: how a batch is laid out, what the model computes of it, and the loss.
 * How gradients are taken and used is not known here.
 */
export type { ExampleAxes, Objective } from "./objective.ts";
export * from "./table.ts";
