import { sizeOf } from "../graph/index.ts";
import { type AdamWConfig, adamw, adamwFields, adamwScalars, adamwUpdate } from "./adamw.ts";
import { blocksSpec, dynamicMap, fromBlocks, toBlocks } from "./blocks.ts";
import { defineOptimizer, type Optimizer } from "./optimizer.ts";

/** Below this many values state stays in float32, as in bitsandbytes (`min_8bit_size`). */
const smallest = 4096;

const [signed, unsigned] = [dynamicMap({ signed: true }), dynamicMap({ signed: false })];

/**
 * AdamW whose two means are kept in 8 bits, block by block: a quarter of AdamW's state. Dettmers et al. 2022, §2: state
 * is read into float32, updated, used, and only then rounded. Their stable embedding layer is not part of it.
 */
export const adamw8bit: Optimizer<AdamWConfig> = defineOptimizer<AdamWConfig>({
  name: "adamw8bit",
  summary: "AdamW with its state in 8 bits, block by block",
  cite: {
    title: "8-bit Optimizers via Block-wise Quantization",
    authors: "Dettmers, Lewis, Shleifer, Zettlemoyer",
    year: 2022,
    arxiv: "2110.02861",
    at: "§2",
  },
  fields: adamwFields,
  decay: "weightDecay",
  state: (shape, config) => {
    if (sizeOf(shape) < smallest) return adamw.state(shape, config);
    const { codes, scales } = blocksSpec(shape);
    return { m: codes, m_scales: scales, v: codes, v_scales: scales };
  },
  scalars: adamwScalars,
  update: (inputs, config) => {
    const shape = inputs.parameter.shape.map(Number);
    if (sizeOf(shape) < smallest) return adamw.update(inputs, config);
    const { state } = inputs;
    const { parameter, m, v } = adamwUpdate(
      inputs,
      {
        m: fromBlocks({ codes: state("m"), scales: state("m_scales") }, shape, signed),
        v: fromBlocks({ codes: state("v"), scales: state("v_scales") }, shape, unsigned),
      },
      config,
    );
    const [nextM, nextV] = [toBlocks(m, signed), toBlocks(v, unsigned)];
    return {
      parameter,
      state: { m: nextM.codes, m_scales: nextM.scales, v: nextV.codes, v_scales: nextV.scales },
    };
  },
});
