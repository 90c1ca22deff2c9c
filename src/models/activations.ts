import { type ActivationName, activationFunctions } from "../ops/index.ts";

/** Activation functions by name. */
export const activations: typeof activationFunctions = activationFunctions;

/** Name of an activation function. */
export type Activation = ActivationName;

/** Other names of a function that has one already. */
const others: Readonly<Record<string, Activation>> = {
  swish: "silu",
  gelu_fast: "gelu_new",
  gelu_accurate: "gelu_new",
  gelu_python: "gelu",
  gelu_python_tanh: "gelu_new",
};

/** Every name that transformers knows an activation function by, but for those with weights of their own. */
export const activationNames: Readonly<Record<string, Activation>> = {
  ...(Object.fromEntries(Object.keys(activations).map((name) => [name, name])) as Record<Activation, Activation>), // its keys
  ...others,
};

/** The activation functions that a recipe can name, for engines without graphs. */
export type RecipeActivation = "silu" | "gelu_new" | "gelu_pytorch_tanh" | "gelu" | "relu" | "tanh";

/** An activation function as a recipe names it; undefined where it cannot. */
export function recipeActivation(name: Activation): RecipeActivation | undefined {
  const names: readonly RecipeActivation[] = ["silu", "gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "tanh"];
  return names.find((known) => known === name);
}
