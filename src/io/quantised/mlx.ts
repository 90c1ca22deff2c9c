import { toFloat32 } from "../convert.ts";
import { readWords, streamed } from "./codes.ts";
import { matrixOf, type QuantisedFormat, shown } from "./format.ts";

/**
 * MLX's affine quantisation: w[o, i] = scales[o, g]·code[o, i] + biases[o, g], g = ⌊i/group_size⌋, with codes of 2 to 8 bits one
 * after the other along a row.
 */
export const mlx: QuantisedFormat = {
  name: "MLX",
  methods: [],
  cite: "mlx, `mlx.core.quantize`",
  matches: (parts) => parts.get("weight")?.dtype === "uint32" && parts.has("scales"),
  parts: ["weight", "scales", "biases"],
  open: async (parts, settings) => {
    const [weight, scales, biases] = ["weight", "scales", "biases"].map((name) => parts.get(name));
    const [codeShape, scaleShape] = [matrixOf(parts, "weight"), matrixOf(parts, "scales")];
    const mode = settings["mode"] ?? "affine";
    if (mode !== "affine" || !biases)
      return `its mode is ${JSON.stringify(biases ? mode : (settings["mode"] ?? "unknown, without biases"))}; "affine" alone is read`;
    if (!weight || !scales || !codeShape || !scaleShape || biases.shape.join() !== scales.shape.join()) {
      return `weight, scales and biases do not fit each other`;
    }
    const { bits, group_size: group } = settings;
    if (typeof bits !== "number" || typeof group !== "number" || ![2, 3, 4, 5, 6, 8].includes(bits) || group <= 0) {
      return `config.json names no "bits" and "group_size" under "quantization", which the tensors do not tell`;
    }
    const [rows, words] = codeShape;
    const columns = (32 * words) / bits;
    if (scaleShape[0] !== rows || scaleShape[1] * group !== columns) {
      return `weight ${shown(codeShape)} and scales ${shown(scaleShape)} do not fit ${bits} bits in groups of ${group}`;
    }
    return {
      shape: [rows, columns],
      scheme: `${bits} bits in groups of ${group}`,
      read: async () => {
        const codes = await readWords(weight);
        const [{ data: scale }, { data: bias }] = [await toFloat32(scales), await toFloat32(biases)];
        const code = streamed(bits);
        const values = new Float32Array(rows * columns);
        for (let row = 0; row < rows; row++) {
          for (let i = 0; i < columns; i++) {
            const at = row * scaleShape[1] + Math.floor(i / group);
            values[row * columns + i] = (scale[at] ?? 0) * code(codes, row * words, 1, i) + (bias[at] ?? 0);
          }
        }
        return values;
      },
    };
  },
  mend: "write it with plain weights: mlx_lm.convert --hf-path folder --mlx-path plain -d",
  samples: ["mlx-2", "mlx-3", "mlx-4", "mlx-5", "mlx-6", "mlx-8"],
};
