import { integer } from "../fields.ts";
import { createAlgebra } from "./algebra.ts";
import { deadInputs } from "./hessian.ts";
import { defineScheme, type Scheme } from "./scheme.ts";
import { createUniform, fitGroups, packUniform, type UniformCodes } from "./uniform.ts";

interface RtnConfig {
  readonly groupSize: number;
}

/**
 * Round to nearest: asymmetric min–max in groups along the row, whatever the activations. The plain baseline. Text is
 * not needed; where there is one, the weights of inputs that are 0 on all of it become 0.
 */
export const rtn: Scheme<RtnConfig> = defineScheme<RtnConfig>({
  name: "rtn",
  summary: "Round to the nearest of evenly spaced values",
  fields: { groupSize: integer(64, "columns that share a step and a zero point; 0 for whole rows", { min: 0 }) },
  readsActivations: false,
  needsCalibration: () => false,
  quantise: async (site, bits, { groupSize }, { rooms } = createAlgebra()) => {
    const { rows, columns } = site;
    const weight = withoutDead(site.weight, deadInputs(site));
    const uniform = createUniform(site, bits, groupSize, rooms);
    const { columnGroup } = uniform;
    const groups = Math.ceil(columns / columnGroup);
    const range = {
      least: rooms.float64("left operand", rows * groups), // nothing is multiplied meanwhile
      largest: rooms.float64("right operand", rows * groups),
    };
    for (let row = 0; row < rows; row++) rangesOfRow(weight, row, columns, columnGroup, range);
    fitGroups(uniform, range.least, range.largest);
    for (let row = 0; row < rows; row++) roundRow(weight, row, uniform);
    return { matrix: packUniform(uniform) };
  },
});

/** The least and the largest weight of each group of a row, 0 among them. */
function rangesOfRow(
  weight: Float32Array | Float64Array,
  row: number,
  columns: number,
  columnGroup: number,
  { least, largest }: { readonly least: Float64Array; readonly largest: Float64Array },
): void {
  let group = row * Math.ceil(columns / columnGroup);
  for (let start = 0; start < columns; start += columnGroup, group++) {
    const end = row * columns + Math.min(columns, start + columnGroup);
    let [low, high] = [0, 0];
    for (let i = row * columns + start; i < end; i++) {
      const w = weight[i] ?? 0;
      if (w < low) low = w;
      else if (w > high) high = w;
    }
    least[group] = low;
    largest[group] = high;
  }
}

/** Codes of a row, as `uniformCode` has them. */
function roundRow(
  weight: Float32Array | Float64Array,
  row: number,
  { columns, columnGroup, bits, codes, steps, zeros }: UniformCodes,
): void {
  const top = 2 ** bits - 1;
  let group = row * Math.ceil(columns / columnGroup);
  for (let start = 0; start < columns; start += columnGroup, group++) {
    const [step = 0, zero = 0] = [steps[group], zeros[group]];
    const end = row * columns + Math.min(columns, start + columnGroup);
    for (let i = row * columns + start; i < end; i++) {
      const code = step === 0 ? zero : Math.round((weight[i] ?? 0) / step) + zero;
      codes[i] = code < 0 ? 0 : code > top ? top : code;
    }
  }
}

/** Weights [rows, columns] with the columns of dead inputs set to 0; the same array where there are none. */
function withoutDead<A extends Float32Array | Float64Array>(weight: A, dead: Uint8Array): A {
  if (!dead.includes(1)) return weight;
  const live = weight.slice() as A; // of the same type
  dead.forEach((is, k) => {
    if (is === 1) for (let i = k; i < live.length; i += dead.length) live[i] = 0;
  });
  return live;
}
