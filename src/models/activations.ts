import { type ActivationName, activationFunctions } from "../ops/index.ts";

/** Name of an activation function that models may ask for, as transformers calls it. */
export type Activation = Extract<ActivationName, "gelu_new" | "gelu_pytorch_tanh" | "gelu" | "relu" | "silu" | "tanh">;

/** All of them. */
export const activationNames: readonly Activation[] = ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "tanh"];

/** Activation functions by name. */
export const activations: Pick<typeof activationFunctions, Activation> = activationFunctions;
