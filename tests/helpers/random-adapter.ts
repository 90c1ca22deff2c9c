import { createRng } from "../../src/linalg/index.ts";
import { type Adapter, attach, type MethodChoice } from "../../src/methods/index.ts";
import type { PretrainedModel } from "../../src/models/index.ts";

/** An adapter of any method on all linear layers, its values drawn. */
export function randomAdapter(model: PretrainedModel, choice: MethodChoice): Adapter {
  const targets = "all-linear";
  const { outputModule } = model.architecture;
  const { trainables } = attach(model.predict().outputs, { choice, targets, outputModule, training: false });
  const parameters = trainables.map(({ value }) => {
    const shape = value.shape.map(Number);
    const rng = createRng(7, value.name);
    const size = shape.reduce((a, b) => a * b, 1);
    const data = Float32Array.from({ length: size }, () => 0.3 * rng.normal());
    return [value.name, { dtype: "float32", shape, data }] as const;
  });
  return { choice, targets, parameters: new Map(parameters) };
}
