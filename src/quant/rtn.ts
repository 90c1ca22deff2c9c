import { integer } from "../fields.ts";
import { deadInputs } from "./hessian.ts";
import { defineScheme, type Scheme } from "./scheme.ts";
import { createUniform, fitGroups, packUniform } from "./uniform.ts";

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
  quantise: (site, bits, { groupSize }) => {
    const { rows, columns } = site;
    const weight = withoutDead(site.weight, deadInputs(site));
    const uniform = createUniform(site, bits, groupSize);
    const { columnGroup, codes, steps, zeros } = uniform;
    const groups = Math.ceil(columns / columnGroup);
    const least = new Float64Array(rows * groups);
    const largest = new Float64Array(rows * groups);
    for (let row = 0, group = 0; row < rows; row++) {
      for (let start = 0; start < columns; start += columnGroup, group++) {
        const end = row * columns + Math.min(columns, start + columnGroup);
        let [low, high] = [0, 0];
        for (let i = row * columns + start; i < end; i++) {
          const w = weight[i] ?? 0;
          if (w < low) low = w;
          if (w > high) high = w;
        }
        least[group] = low;
        largest[group] = high;
      }
    }
    fitGroups(uniform, least, largest);
    const top = 2 ** bits - 1;
    for (let row = 0, group = 0; row < rows; row++) {
      for (let start = 0; start < columns; start += columnGroup, group++) {
        const end = row * columns + Math.min(columns, start + columnGroup);
        const [step = 0, zero = 0] = [steps[group], zeros[group]];
        // As `uniformCode` does it; bytes hold what is clamped.
        for (let i = row * columns + start; i < end; i++) {
          const code = step === 0 ? zero : Math.round((weight[i] ?? 0) / step) + zero;
          codes[i] = code < 0 ? 0 : code > top ? top : code;
        }
      }
    }
    return { matrix: packUniform(uniform) };
  },
});

/** Weights [rows, columns] with the columns of dead inputs set to 0; the same array where there are none. */
function withoutDead<A extends Float32Array | Float64Array>(weight: A, dead: Uint8Array): A {
  if (!dead.includes(1)) return weight;
  const live = weight.slice() as A; // of the same type
  dead.forEach((is, k) => {
    if (is === 1) for (let i = k; i < live.length; i += dead.length) live[i] = 0;
  });
  return live;
}
