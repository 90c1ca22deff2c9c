import { integer } from "../fields.ts";
import { deadInputs } from "./hessian.ts";
import { defineScheme, type Scheme } from "./scheme.ts";
import { createUniform, fitGroup, packUniform, uniformCode } from "./uniform.ts";

interface RtnConfig {
  readonly groupSize: number;
}

/** Round to nearest: asymmetric min–max in groups along the row, whatever the activations. The plain baseline. */
export const rtn: Scheme<RtnConfig> = defineScheme<RtnConfig>({
  name: "rtn",
  summary: "Round to the nearest of evenly spaced values",
  fields: { groupSize: integer(64, "columns that share a step and a zero point; 0 for whole rows", { min: 0 }) },
  readsActivations: false,
  quantise: (site, bits, { groupSize }) => {
    const { rows, columns, weight, hessian } = site;
    const dead = deadInputs(hessian);
    const uniform = createUniform(site, bits, groupSize);
    const { columnGroup, codes } = uniform;
    const groups = Math.ceil(columns / columnGroup);
    const at = (row: number, k: number): number => (dead[k] === 1 ? 0 : (weight[row * columns + k] ?? 0));
    for (let row = 0; row < rows; row++) {
      for (let g = 0; g < groups; g++) {
        const [start, end] = [g * columnGroup, Math.min(columns, (g + 1) * columnGroup)];
        let [least, largest] = [0, 0];
        for (let k = start; k < end; k++) {
          least = Math.min(least, at(row, k));
          largest = Math.max(largest, at(row, k));
        }
        fitGroup(uniform, row * groups + g, least, largest);
        for (let k = start; k < end; k++) codes[row * columns + k] = uniformCode(uniform, row * groups + g, at(row, k));
      }
    }
    return { matrix: packUniform(uniform) };
  },
});
