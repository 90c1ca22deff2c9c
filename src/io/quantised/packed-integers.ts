import { toFloat32 } from "../convert.ts";
import { readGroups, readNumbers, readWords, wholeInWords } from "./codes.ts";
import { matrixOf, type QuantisationSettings, type QuantisedFormat, saveDequantised, shown } from "./format.ts";

/**
 * Signed integers of 8 bits and less, packed into words along the inputs as code + 2^(bits−1), as many whole ones as fit:
 * w[o, i] = (code − zero[o, g])·weight_scale[o, g], g = ⌊i/group⌋ or `weight_g_idx`. Zero points lie the same way down the rows.
 */
export const packedIntegers: QuantisedFormat = {
  name: "compressed-tensors packed",
  methods: ["compressed-tensors"],
  cite: "compressed-tensors, format `pack-quantized`",
  matches: (parts) => parts.get("weight_packed")?.dtype === "int32",
  parts: ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"],
  open: async (parts, settings) => {
    const [packed, scales, sizes, zeros, index] = [
      "weight_packed",
      "weight_scale",
      "weight_shape",
      "weight_zero_point",
      "weight_g_idx",
    ].map((name) => parts.get(name));
    const [packedShape, scaleShape] = [matrixOf(parts, "weight_packed"), matrixOf(parts, "weight_scale")];
    if (!packed || !scales || !sizes || !packedShape || !scaleShape) {
      return "weight_packed, weight_scale and weight_shape belong together; one is missing";
    }
    const [rows = 0, columns = 0] = sizes.shape.join() === "2" ? await readNumbers(sizes) : [];
    const bits = bitsOf(columns, packedShape[1], settings);
    const groups = scaleShape[1];
    const said = Number(settings["group_size"]);
    const groupSize = Math.ceil(columns / said) === groups ? said : Math.ceil(columns / Math.max(1, groups));
    if (bits === undefined || packedShape[0] !== rows || scaleShape[0] !== rows || rows === 0) {
      const found = `weight_packed ${shown(packedShape)}, weight_scale ${shown(scaleShape)}`;
      return `${found} and weight_shape (${rows}, ${columns}) do not fit each other at any number of bits`;
    }
    const each = Math.floor(32 / bits);
    if (zeros && zeros.shape.join() !== [Math.ceil(rows / each), groups].join()) {
      return `weight_zero_point is ${shown(zeros.shape)}, not ${shown([Math.ceil(rows / each), groups])}`;
    }
    if (index ? index.shape.join() !== String(columns) : Math.ceil(columns / groupSize) !== groups) {
      return `${groups} groups of ${groupSize} do not cover ${columns} inputs`;
    }
    return {
      shape: [rows, columns],
      scheme: `${bits} bits, ${groups === 1 ? "a scale for each row" : `groups of ${groupSize}`}`,
      read: async () => {
        const groupOf = await readGroups(index, { columns, groupSize, groups });
        const [words, { data: scale }] = [await readWords(packed), await toFloat32(scales)];
        const zeroWords = zeros ? await readWords(zeros) : undefined;
        const code = wholeInWords(bits);
        const middle = 2 ** (bits - 1);
        const values = new Float32Array(rows * columns);
        for (let row = 0; row < rows; row++) {
          for (let i = 0; i < columns; i++) {
            const g = groupOf[i] ?? 0;
            // Both are stored with the middle added, so it cancels where there is a zero point.
            const zero = zeroWords ? code(zeroWords, g, groups, row) : middle;
            const own = code(words, row * packedShape[1], 1, i);
            values[row * columns + i] = (own - zero) * (scale[row * groups + g] ?? 0);
          }
        }
        return values;
      },
    };
  },
  mend: saveDequantised,
  samples: ["packed-int4", "packed-int8", "packed-int4-zeros", "packed-int4-order"],
};

/** The number of bits that a row of words holds its codes in: what the settings say, or the only one that fits. */
function bitsOf(columns: number, words: number, settings: QuantisationSettings): number | undefined {
  const fitting = [8, 7, 6, 5, 4, 3, 2, 1].filter((bits) => Math.ceil(columns / Math.floor(32 / bits)) === words);
  const said = settings["num_bits"];
  return fitting.find((bits) => bits === said) ?? (fitting.includes(4) ? 4 : fitting[0]);
}
