import { defineMethod, type Method } from "./method.ts";

/** Full fine-tuning: every weight of the model is trained where it stands. */
export const full: Method<Record<never, never>> = defineMethod<Record<never, never>>({
  name: "full",
  summary: "Every weight of the model, no adapter",
  fields: {},
  attaches: "weight",
  rates: [1e-5, 3e-5, 1e-4, 3e-4],
  parameters: ({ weight }) => ({ weight: { shape: weight.shape.map(Number), initial: "weight" } }),
  adapt: (_attachment, parameter) => parameter("weight"),
  merge: (_weight, parameter) => parameter("weight"),
});
