import { resolveDim, type Tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import type { DropoutMask } from "../methods/index.ts";

/**
 * Draw the dropout masks of one batch: bool, 1 where an element is kept. They depend on the seed, the step, the batch
 * within the step and the mask's name alone (and the sizes of the batch, by symbol), so a resumed run draws the same ones.
 */
export function fillDropoutMasks(
  masks: readonly DropoutMask[],
  symbols: Readonly<Record<string, number>>,
  at: { readonly seed: number; readonly step: number; readonly batch: number },
): Record<string, Tensor> {
  return Object.fromEntries(
    masks.map(({ value, rate }) => {
      const shape = value.shape.map((dim) => resolveDim(dim, symbols) ?? 1);
      const data = new Uint8Array(shape.reduce((product, dim) => product * dim, 1));
      const { uint32 } = createRng(at.seed, "dropout", at.step, at.batch, value.name);
      const threshold = Math.round(rate * 65536); // two masks' worth of randomness in one draw
      for (let i = 0; i < data.length; i += 2) {
        const bits = uint32();
        data[i] = Number((bits & 0xffff) >= threshold);
        if (i + 1 < data.length) data[i + 1] = Number(bits >>> 16 >= threshold);
      }
      return [value.name, { dtype: "bool", shape, data } satisfies Tensor<"bool">];
    }),
  );
}
