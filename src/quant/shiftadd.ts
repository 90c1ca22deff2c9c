import { flag, integer } from "../fields.ts";
import { encodePowers, packPlanes } from "../io/packed/index.ts";
import { createAlgebra } from "./algebra.ts";
import { createBinaryCoder } from "./binary-code.ts";
import { createCodebook, fillCodebook, nearestIndex } from "./codebook.ts";
import { type SweepConfig, sweepFields } from "./gptq.ts";
import { defineScheme, hessianOf, type Scheme } from "./scheme.ts";
import { type ColumnQuantiser, type SweepState, sweep } from "./sweep.ts";

interface ShiftAddConfig extends SweepConfig {
  readonly terms: number;
  readonly rounds: number;
  readonly blockWise: boolean;
  readonly rowGroup: number;
}

/** Columns that share scales in the block-wise variant, and into how many groups it cuts the rows. */
const block = { columns: 8, rowGroups: 8 } as const;

/**
 * ShiftAddLLM: binary planes with scales that are sums of powers of two, found column by column inside the sweep, after
 * the errors of earlier columns have been moved onto this one. Weights that share a scale meet the same activation, so
 * the error that is minimised is in proportion to the output's.
 *
 * Column-wise (`acc`): scales go down a column. Block-wise (`lat`): 8 columns and an eighth of the rows share them; they
 * are fitted when the sweep reaches the block, and the codes of each column when it reaches that. Nothing is rotated:
 * the released code's incoherence processing, which the paper does not mention, is no part of this.
 */
export const shiftadd: Scheme<ShiftAddConfig> = defineScheme<ShiftAddConfig>({
  name: "shiftadd",
  summary: "Binary planes with scales of powers of two, fitted inside the sweep (ShiftAddLLM)",
  cite: {
    title: "ShiftAddLLM: Accelerating Pretrained LLMs via Post-Training Multiplication-Less Reparameterization",
    authors:
      "Haoran You and Yipin Guo and Yichao Fu and Wei Zhou and Huihong Shi and Xiaofan Zhang and Souvik Kundu and Amir Yazdanbakhsh and Yingyan Celine Lin",
    year: 2024,
    arxiv: "2406.05981",
    at: "§4.1–4.2, Algorithm 1",
  },
  fields: {
    terms: integer(3, "powers of two in a scale", { min: 1, max: 3 }),
    rounds: integer(20, "rounds of alternating optimisation", { min: 1 }),
    blockWise: flag(false, "share scales in blocks of 8 columns (--variant lat) instead of down a column"),
    rowGroup: integer(0, "rows that share a scale; 0 for all (an eighth of them, block-wise)", { min: 0 }),
    ...sweepFields,
  },
  readsActivations: true,
  needsCalibration: () => true,
  quantise: async (site, bits, config, algebra = createAlgebra()) => {
    const { rows, columns, weight } = site;
    const { terms, rounds, blockWise, damping, activationOrder } = config;
    const columnGroup = blockWise ? Math.min(block.columns, columns) : 1;
    const whole = blockWise ? Math.ceil(rows / block.rowGroups) : rows;
    const rowGroup = config.rowGroup === 0 ? whole : Math.min(config.rowGroup, rows);
    const rowGroups = Math.ceil(rows / rowGroup);
    const columnGroups = Math.ceil(columns / columnGroup);
    const prepared = await algebra.prepare(hessianOf(site), { damping, activationOrder, run: columnGroup });
    const coder = createBinaryCoder({ bits, rounds, terms });
    const book = createCodebook(bits);
    const codes = algebra.rooms.bytes("codes", rows * columns);
    const alpha = new Float64Array(bits * rowGroups * columnGroups);
    const scales = new Float64Array(bits);
    const indexOf = (plane: number, g: number, columnGroupIndex: number): number =>
      (plane * rowGroups + g) * columnGroups + columnGroupIndex;

    const quantiser: ColumnQuantiser = {
      groupSize: columnGroup,
      quantise: (k, state, quantised) => {
        const column = prepared.order[k] ?? 0;
        const own = Math.floor(column / columnGroup);
        const current = state.column(k);
        const begins = k % columnGroup === 0;
        for (let g = 0; g < rowGroups; g++) {
          const [start, end] = [g * rowGroup, Math.min(rows, (g + 1) * rowGroup)];
          const values = current.subarray(start, end);
          if (begins) {
            const fitted = coder(columnGroup === 1 ? values : blockOf(state, k, columnGroup, start, end));
            fitted.alpha.forEach((scale, i) => {
              alpha[indexOf(i, g, own)] = scale;
            });
          }
          for (let i = 0; i < bits; i++) scales[i] = alpha[indexOf(i, g, own)] ?? 0;
          fillCodebook(book, scales);
          for (let row = start; row < end; row++) {
            const index = nearestIndex(book, current[row] ?? 0);
            quantised[row] = book.values[index] ?? 0;
            codes[row * columns + column] = book.codes[index] ?? 0;
          }
        }
      },
    };
    await sweep(weight, rows, prepared, quantiser, algebra);
    const shape = {
      rows,
      columns,
      bits,
      rowGroup,
      columnGroup,
      coding: "binary",
      scaleKind: "powers",
      terms,
    } as const;
    const coded = Uint16Array.from(alpha, (scale) => encodePowers(scale, terms));
    return { matrix: { ...shape, planes: packPlanes(codes, shape), scales: coded }, prepared };
  },
});

/** Rows `start` to `end` of the columns of a block as they stand now. */
function blockOf(state: SweepState, k: number, size: number, start: number, end: number): Float64Array {
  const last = Math.min(state.columns, k + size);
  const values = new Float64Array((last - k) * (end - start));
  for (let j = k; j < last; j++) values.set(state.column(j).subarray(start, end), (j - k) * (end - start));
  return values;
}
