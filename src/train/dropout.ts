import { resolveDim, type Tensor, tensor } from "../graph/index.ts";
import { createRng } from "../linalg/index.ts";
import type { DropoutMask } from "../methods/index.ts";

type Sizes = Readonly<Record<string, number>>;

/**
 * Draw the dropout masks of one batch: bool, 1 where an element is kept. They depend on the seed, the step, the batch
 * within the step and the mask's name alone (and the sizes of the batch, by symbol), so a resumed run draws the same ones.
 */
export function fillDropoutMasks(
  masks: readonly DropoutMask[],
  symbols: Sizes,
  at: { readonly seed: number; readonly step: number; readonly batch: number },
): Record<string, Tensor> {
  return feedsOf(masks, symbols, {
    scaleOf: (rate) => 1 / (1 - rate),
    fill: (data, { rate, value }) => {
      const { uint32 } = createRng(at.seed, "dropout", at.step, at.batch, value.name);
      const threshold = Math.round(rate * 65536); // two masks' worth of randomness in one draw
      for (let i = 0; i < data.length; i += 2) {
        const bits = uint32();
        data[i] = Number((bits & 0xffff) >= threshold);
        if (i + 1 < data.length) data[i + 1] = Number(bits >>> 16 >= threshold);
      }
    },
  });
}

/** Masks that keep every element as it is: dropout off, in a graph that has it. */
export function openDropoutMasks(masks: readonly DropoutMask[], symbols: Sizes): Record<string, Tensor> {
  return feedsOf(masks, symbols, { scaleOf: () => 1, fill: (data) => data.fill(1) });
}

function feedsOf(
  masks: readonly DropoutMask[],
  symbols: Sizes,
  { scaleOf, fill }: { scaleOf: (rate: number) => number; fill: (data: Uint8Array, mask: DropoutMask) => void },
): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const mask of masks) {
    const shape = mask.value.shape.map((dim) => resolveDim(dim, symbols) ?? 1);
    const data = new Uint8Array(shape.reduce((product, dim) => product * dim, 1));
    fill(data, mask);
    feeds[mask.value.name] = { dtype: "bool", shape, data } satisfies Tensor<"bool">;
    feeds[mask.scale.name] = tensor("float32", [], [scaleOf(mask.rate)]);
  }
  return feeds;
}
