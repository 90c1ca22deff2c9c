import type { Value } from "../graph/index.ts";
import { abs, add, div, erf, exp, gelu, log, max, min, mul, neg, relu, sigmoid, sub, tanh } from "./elementwise.ts";

const relu6 = (x: Value): Value => min(relu(x), 6);
const silu = (x: Value): Value => mul(x, sigmoid(x));
/** √½ as transformers rounds it. */
const laplaceMean = 707107e-6;
/** ln(1 + eˣ), without overflow. */
const softplus = (x: Value): Value => add(relu(x), log(add(exp(neg(abs(x))), 1)));

/**
 * Activation functions by the names that transformers gives them (`ACT2FN`, 4.57), element by element, but those with
 * weights of their own (`prelu`, `xielu`).
 */
export const activationFunctions = {
  gelu_new: (x: Value): Value => gelu(x, "tanh"),
  gelu: (x: Value): Value => gelu(x),
  gelu_10: (x: Value): Value => min(max(gelu(x), -10), 10),
  gelu_accurate: (x: Value): Value => gelu(x, "tanh"),
  gelu_fast: (x: Value): Value => gelu(x, "tanh"),
  gelu_python: (x: Value): Value => gelu(x),
  gelu_python_tanh: (x: Value): Value => gelu(x, "tanh"),
  gelu_pytorch_tanh: (x: Value): Value => gelu(x, "tanh"),
  hardswish: (x: Value): Value => mul(x, div(relu6(add(x, 3)), 6)),
  laplace: (x: Value): Value => mul(add(erf(div(sub(x, laplaceMean), 0.282095 * Math.SQRT2)), 1), 0.5),
  leaky_relu: (x: Value): Value => sub(relu(x), mul(relu(neg(x)), 0.01)),
  linear: (x: Value): Value => x,
  mish: (x: Value): Value => mul(x, tanh(softplus(x))),
  quick_gelu: (x: Value): Value => mul(x, sigmoid(mul(x, 1.702))),
  relu: (x: Value): Value => relu(x),
  relu2: (x: Value): Value => mul(relu(x), relu(x)),
  relu6: (x: Value): Value => relu6(x),
  sigmoid: (x: Value): Value => sigmoid(x),
  silu: (x: Value): Value => silu(x),
  swish: (x: Value): Value => silu(x),
  tanh: (x: Value): Value => tanh(x),
} as const;

/** Name of an activation function. */
export type ActivationName = keyof typeof activationFunctions;
