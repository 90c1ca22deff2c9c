import type { Tensor } from "../../src/graph/index.ts";
import { type Adapter, chooseMethod, parameterName, tokenRowsKey } from "../../src/methods/index.ts";
import { type PretrainedModel, vocabularyTensors } from "../../src/models/index.ts";

/**
 * A LoRA adapter of rank 4 on the query and down projections, its values a fixed pattern of exact binary fractions; with
 * rows of its own for some tokens.
 */
export function waveAdapter(model: PretrainedModel, tokens: readonly number[] = []): Adapter {
  const { hiddenSize, heads, headDim, layers } = model.sizes;
  const intermediateSize = Number(model.json["intermediate_size"]);
  const modules = Array.from({ length: layers }, (_, i) => [
    { module: `model.layers.${i}.self_attn.q_proj`, inFeatures: hiddenSize, outFeatures: heads * headDim },
    { module: `model.layers.${i}.mlp.down_proj`, inFeatures: intermediateSize, outFeatures: hiddenSize },
  ]).flat();
  const wave = (shape: readonly [number, number], phase: number): Tensor => ({
    dtype: "float32",
    shape,
    data: Float32Array.from({ length: shape[0] * shape[1] }, (_, i) => (((i * 37 + phase * 11) % 65) - 32) / 128),
  });
  const ofTokens = tokens.length === 0 ? [] : vocabularyTensors(model).map((name) => name.replace(/\.weight$/, ""));
  return {
    choice: chooseMethod(
      "lora",
      { rank: 4, alpha: 6 },
      {},
      { tokens: Object.fromEntries(ofTokens.map((module) => [module, tokens])) },
    ),
    targets: ["q_proj", "down_proj"],
    parameters: new Map([
      ...modules.flatMap(({ module, inFeatures, outFeatures }, i): [string, Tensor][] => [
        [parameterName(module, "lora", "A"), wave([4, inFeatures], 2 * i)],
        [parameterName(module, "lora", "B"), wave([outFeatures, 4], 2 * i + 1)],
      ]),
      ...ofTokens.map((module, i): [string, Tensor] => [
        `${module}.${tokenRowsKey}`,
        wave([tokens.length, hiddenSize], 50 + i),
      ]),
    ]),
  };
}
