import { toFloat32 } from "../convert.ts";
import { readWords } from "./codes.ts";
import { matrixOf, type QuantisedFormat, saveDequantised, shown } from "./format.ts";

/** Where the eight outputs of a word stand in it. */
const place = [0, 4, 1, 5, 2, 6, 3, 7];

/**
 * AWQ's files for GEMM kernels: w[o, i] = scales[g, o]·(code[i, o] − zero[g, o]), g = ⌊i/group⌋. Eight outputs of 4 bits share
 * a word of `qweight` [in, out/8] and of `qzeros` [groups, out/8], the even ones in its low half. Lin et al. 2023
 * (arXiv 2306.00978).
 */
export const awq: QuantisedFormat = {
  name: "AWQ",
  methods: ["awq"],
  cite: "AutoAWQ, `WQLinear_GEMM` and `AWQ_REVERSE_ORDER`",
  matches: (parts) => parts.has("qweight") && matrixOf(parts, "qweight")?.[1] !== matrixOf(parts, "scales")?.[1],
  parts: ["qweight", "qzeros", "scales"],
  open: async (parts, settings) => {
    const [codes, zeros, scales] = ["qweight", "qzeros", "scales"].map((name) => parts.get(name));
    const [codeShape, zeroShape, scaleShape] = ["qweight", "qzeros", "scales"].map((name) => matrixOf(parts, name));
    if (!codes || !zeros || !scales || !codeShape || !zeroShape || !scaleShape) {
      return "qweight, qzeros and scales belong together; one is missing";
    }
    const [columns, words] = codeShape;
    const [groups, rows] = scaleShape;
    const group = columns / groups;
    const fits = rows === 8 * words && zeroShape[0] === groups && zeroShape[1] === words && Number.isInteger(group);
    const version = settings["version"] ?? "gemm";
    if (!fits || String(version).toLowerCase() !== "gemm") {
      const found = `qweight ${shown(codeShape)}, qzeros ${shown(zeroShape)}, scales ${shown(scaleShape)}`;
      return `${found}, version ${JSON.stringify(version)}: the layout "gemm" of 4 bits alone is read`;
    }
    return {
      shape: [rows, columns],
      scheme: `4 bits in groups of ${group}`,
      read: async () => {
        const [packed, packedZeros] = [await readWords(codes), await readWords(zeros)];
        const { data: scale } = await toFloat32(scales);
        const values = new Float32Array(rows * columns);
        for (let row = 0; row < rows; row++) {
          const [word, shift] = [row >> 3, 4 * (place[row & 7] ?? 0)];
          for (let i = 0; i < columns; i++) {
            const g = Math.floor(i / group);
            const zero = ((packedZeros[g * words + word] ?? 0) >>> shift) & 15;
            const code = ((packed[i * words + word] ?? 0) >>> shift) & 15;
            values[row * columns + i] = (scale[g * rows + row] ?? 0) * (code - zero);
          }
        }
        return values;
      },
    };
  },
  mend: saveDequantised,
  samples: ["awq"],
};
