import { flag, integer } from "../fields.ts";
import { float32ToFloat16 } from "../io/convert.ts";
import { type PackedMatrix, packPlanes } from "../io/packed/index.ts";
import { createAlgebra } from "./algebra.ts";
import { assign, createBinaryCoder } from "./binary-code.ts";
import { createCodebook, fillCodebook, nearestIndex } from "./codebook.ts";
import { type SweepConfig, sweepFields } from "./gptq.ts";
import { deadInputs } from "./hessian.ts";
import { defineScheme, hessianOf, type Scheme } from "./scheme.ts";
import { type ColumnQuantiser, sweep } from "./sweep.ts";
import { toFloat16 } from "./uniform.ts";

interface BcqConfig extends Pick<SweepConfig, "damping"> {
  readonly groupSize: number;
  readonly rounds: number;
  readonly compensate: boolean;
}

/**
 * Binary-coding quantisation row by row, as LUT-GEMM does it: least error of the weights, whatever the activations.
 * With `compensate` the fixed scales go through the error-compensating sweep, the paper's "naive" combination.
 */
export const bcq: Scheme<BcqConfig> = defineScheme<BcqConfig>({
  name: "bcq",
  summary: "Binary planes with float scales along the row (LUT-GEMM)",
  cite: {
    title:
      "LUT-GEMM: Quantized Matrix Multiplication based on LUTs for Efficient Inference in Large-Scale Generative Language Models",
    authors:
      "Gunho Park and Baeseong Park and Minsub Kim and Sungjae Lee and Jeonghoon Kim and Beomseok Kwon and Se Jung Kwon and Byeongwook Kim and Youngjoo Lee and Dongsoo Lee",
    year: 2022,
    arxiv: "2206.09557",
    at: "§3.1",
  },
  fields: {
    groupSize: integer(0, "columns that share scales; 0 for whole rows", { min: 0 }),
    rounds: integer(20, "rounds of alternating optimisation", { min: 0 }),
    compensate: flag(false, "sweep the columns with these scales held fixed"),
    damping: {
      ...sweepFields.damping,
      idle: ({ compensate }) => (compensate ? undefined : "only compensate reads it"),
    },
  },
  readsActivations: false,
  needsCalibration: ({ compensate }) => compensate,
  quantise: async (site, bits, config, algebra = createAlgebra()) => {
    const { rows, columns, weight } = site;
    // Groups are of the model's own columns, so only a sweep whose order is kept could reorder them.
    const prepared = config.compensate
      ? await algebra.prepare(hessianOf(site), { damping: config.damping, activationOrder: false })
      : undefined;
    const dead = prepared?.dead ?? deadInputs(site);
    const columnGroup = config.groupSize === 0 ? columns : Math.min(config.groupSize, columns);
    const groups = Math.ceil(columns / columnGroup);
    const coder = createBinaryCoder({ bits, rounds: config.rounds, terms: 0 });
    const book = createCodebook(bits);
    const alpha = new Float32Array(bits * rows * groups);
    const codes = algebra.rooms.bytes("codes", rows * columns);
    const scalesAt = (row: number, g: number): Float64Array =>
      Float64Array.from({ length: bits }, (_, i) => alpha[(i * rows + row) * groups + g] ?? 0);
    for (let row = 0; row < rows; row++) {
      for (let g = 0; g < groups; g++) {
        const [start, end] = [g * columnGroup, Math.min(columns, (g + 1) * columnGroup)];
        const values = new Float64Array(end - start);
        for (let k = start; k < end; k++) values[k - start] = dead[k] === 1 ? 0 : (weight[row * columns + k] ?? 0);
        const scales = coder(values).alpha.map(toFloat16); // as they are stored; codes are the nearest to these
        scales.forEach((scale, i) => {
          alpha[(i * rows + row) * groups + g] = scale;
        });
        const own = new Uint8Array(values.length);
        assign(book, values, scales, own);
        codes.set(own, row * columns + start);
      }
    }
    const shape = { rows, columns, bits, rowGroup: 1, columnGroup, coding: "binary", scaleKind: "float16" } as const;
    const pack = (): PackedMatrix => ({ ...shape, planes: packPlanes(codes, shape), scales: float32ToFloat16(alpha) });
    if (prepared === undefined) return { matrix: pack() };
    const quantiser: ColumnQuantiser = {
      groupSize: 1,
      quantise: (k, state, quantised) => {
        const g = Math.floor(k / columnGroup);
        state.column(k).forEach((w, row) => {
          fillCodebook(book, scalesAt(row, g));
          const index = nearestIndex(book, w);
          codes[row * columns + k] = book.codes[index] ?? 0;
          quantised[row] = book.values[index] ?? 0;
        });
      },
    };
    await sweep(weight, rows, prepared, quantiser, algebra);
    return { matrix: pack(), prepared };
  },
});
