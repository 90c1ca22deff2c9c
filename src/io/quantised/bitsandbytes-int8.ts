import { isFloat } from "../../graph/index.ts";
import { toFloat32 } from "../convert.ts";
import { readBytes } from "./codes.ts";
import { matrixOf, type QuantisedFormat, saveDequantised, shown } from "./format.ts";

/**
 * LLM.int8(): w[o, i] = code[o, i]·SCB[o]/127, where SCB is the largest magnitude of a row. Dettmers et al. 2022
 * (arXiv 2208.07339), §2.1; outliers are a matter of activations, and their weights are stored as all others.
 */
export const bitsandbytesInt8: QuantisedFormat = {
  name: "bitsandbytes int8",
  methods: ["bitsandbytes", "bitsandbytes_8bit"],
  cite: "bitsandbytes, `Linear8bitLt._save_to_state_dict` and `int8_vectorwise_dequant`",
  matches: (parts) => parts.has("SCB"),
  parts: ["weight", "SCB", "weight_format"],
  open: async (parts) => {
    const [weight, largest, format] = ["weight", "SCB", "weight_format"].map((name) => parts.get(name));
    const shape = matrixOf(parts, "weight");
    if (!weight || !largest || !shape || weight.dtype !== "int8") return "SCB needs a matrix of int8 codes as weight";
    const [rows, columns] = shape;
    if (largest.shape.join() !== String(rows) || !isFloat(largest.dtype)) {
      return `SCB is ${largest.dtype} ${shown(largest.shape)}, not a float for each of ${rows} rows`;
    }
    // Older versions could keep the tiles of a kernel, which have another order.
    const layout = format ? (await readBytes(format))[0] : 0;
    if (layout !== 0) return `weight_format is ${layout}: its codes lie in the order of a kernel, not row by row`;
    return {
      shape,
      scheme: "8 bits, a scale for each row",
      read: async () => {
        const codes = (await weight.read()).data;
        const { data: scales } = await toFloat32(largest);
        const values = new Float32Array(rows * columns);
        for (let row = 0; row < rows; row++) {
          const scale = (scales[row] ?? 0) / 127;
          for (let i = row * columns; i < (row + 1) * columns; i++) values[i] = Number(codes[i]) * scale;
        }
        return values;
      },
    };
  },
  mend: saveDequantised,
  samples: ["bitsandbytes-int8"],
};
