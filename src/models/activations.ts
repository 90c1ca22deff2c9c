import type { Value } from "../graph/index.ts";
import { gelu, mul, relu, sigmoid, tanh } from "../ops/index.ts";

/** Activation functions by the names that transformers gives them. */
export const activations = {
  gelu_new: (x: Value): Value => gelu(x, "tanh"),
  gelu_pytorch_tanh: (x: Value): Value => gelu(x, "tanh"),
  gelu: (x: Value): Value => gelu(x),
  relu: (x: Value): Value => relu(x),
  silu: (x: Value): Value => mul(x, sigmoid(x)),
  tanh: (x: Value): Value => tanh(x),
};

/** Name of an activation function. */
export type Activation = keyof typeof activations;

/** All of them. */
export const activationNames: readonly Activation[] = Object.keys(activations) as Activation[]; // its keys
