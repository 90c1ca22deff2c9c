import { assert } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import type { Trainable } from "./attach.ts";

/** The values that a trained tensor starts with; what is drawn, is drawn by the seed and the tensor's name. */
export async function initialTensor(
  { value, initial, weight }: Pick<Trainable, "value" | "initial" | "weight">,
  seed: number,
): Promise<Tensor> {
  const { dtype } = value;
  const shape = value.shape.map(Number);
  if (typeof initial === "function") {
    const size = shape.reduce((product, dim) => product * dim, 1);
    return { dtype, shape, data: initial(createRng(seed, "parameter", value.name), size) };
  }
  assert(weight.kind === "weight", () => `${value.name} has no pretrained tensor to start from`);
  const pretrained = await weight.source.read();
  if (initial === "weight") return pretrained;
  return { dtype, shape, data: await initial.fromWeight(pretrained) };
}
