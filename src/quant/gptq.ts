import { type Fields, flag, integer, real } from "../fields.ts";
import { createAlgebra } from "./algebra.ts";
import { defineScheme, hessianOf, type Scheme } from "./scheme.ts";
import { type ColumnQuantiser, sweep } from "./sweep.ts";
import { createUniform, fitGroup, packUniform, uniformCode, uniformValue } from "./uniform.ts";

/** Options of every scheme that sweeps. */
export interface SweepConfig {
  readonly damping: number;
  readonly activationOrder: boolean;
}

/** What they are on the command line. */
export const sweepFields: Fields<SweepConfig> = {
  damping: real(0.01, "share of the mean of the Hessian's diagonal that is added to it", { min: 0 }),
  activationOrder: flag(true, "quantise the columns of the largest inputs first"),
};

interface GptqConfig extends SweepConfig {
  readonly groupSize: number;
}

/**
 * GPTQ: evenly spaced values, with each column's error moved onto the columns that follow. Groups are of consecutive
 * columns in the order of the sweep, so the order is stored where it is not the model's own.
 */
export const gptq: Scheme<GptqConfig> = defineScheme<GptqConfig>({
  name: "gptq",
  summary: "Evenly spaced values, errors compensated column by column",
  cite: {
    title: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    authors: "Elias Frantar and Saleh Ashkboos and Torsten Hoefler and Dan Alistarh",
    year: 2022,
    arxiv: "2210.17323",
    at: "Algorithm 1",
  },
  fields: {
    groupSize: integer(64, "columns that share a step and a zero point; 0 for whole rows", { min: 0 }),
    ...sweepFields,
  },
  readsActivations: true,
  needsCalibration: () => true,
  quantise: async (site, bits, { groupSize, damping, activationOrder }, algebra = createAlgebra()) => {
    const { rows, columns, weight } = site;
    const prepared = await algebra.prepare(hessianOf(site), { damping, activationOrder });
    const uniform = createUniform(site, bits, groupSize, algebra.rooms);
    const { columnGroup, codes } = uniform;
    const groups = Math.ceil(columns / columnGroup);
    const [least, largest] = [new Float64Array(rows), new Float64Array(rows)];
    const quantiser: ColumnQuantiser = {
      groupSize: columnGroup,
      quantise: (k, state, quantised) => {
        const g = Math.floor(k / columnGroup);
        if (k % columnGroup === 0) {
          least.fill(0);
          largest.fill(0);
          for (let j = k; j < Math.min(columns, k + columnGroup); j++) widen(least, largest, state.column(j));
          for (let row = 0; row < rows; row++) fitGroup(uniform, row * groups + g, least[row] ?? 0, largest[row] ?? 0);
        }
        const current = state.column(k);
        for (let row = 0; row < rows; row++) {
          const code = uniformCode(uniform, row * groups + g, current[row] ?? 0);
          codes[row * columns + k] = code;
          quantised[row] = uniformValue(uniform, row * groups + g, code);
        }
      },
    };
    await sweep(weight, rows, prepared, quantiser, algebra);
    return { matrix: inStoredOrder(), prepared };

    function inStoredOrder() {
      const { order } = prepared;
      const natural = order.every((column, k) => column === k);
      if (natural) return packUniform(uniform);
      if (groups > 1) return packUniform(uniform, order);
      // One group a row: codes can go back to where the model has them.
      const moved = new Uint8Array(codes.length);
      order.forEach((column, k) => {
        for (let row = 0; row < rows; row++) moved[row * columns + column] = codes[row * columns + k] ?? 0;
      });
      return packUniform({ ...uniform, codes: moved });
    }
  },
});

/** Let ranges [rows] hold a column too. */
function widen(least: Float64Array, largest: Float64Array, column: Float64Array): void {
  for (let row = 0; row < column.length; row++) {
    const w = column[row] ?? 0;
    if (w < (least[row] ?? 0)) least[row] = w;
    if (w > (largest[row] ?? 0)) largest[row] = w;
  }
}
