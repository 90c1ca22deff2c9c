import { toFloat32 } from "../convert.ts";
import { readGroups, readWords, streamed } from "./codes.ts";
import { matrixOf, type QuantisedFormat, saveDequantised, shown } from "./format.ts";

/**
 * GPTQ's files: w[o, i] = scales[g, o]·(code[i, o] − zero[g, o]) with g = g_idx[i]. Codes of 2, 3, 4 or 8 bits run down the
 * inputs in words of 32 (`qweight` [in·bits/32, out]), zero points along the outputs (`qzeros` [groups, out·bits/32]).
 * Files of the first format hold each zero point less one, modulo 2^bits. Frantar et al. 2022 (arXiv 2210.17323).
 */
export const gptq: QuantisedFormat = {
  name: "GPTQ",
  methods: ["gptq"],
  cite: "AutoGPTQ and GPTQModel, `QuantLinear.pack` and `checkpoint_format`",
  matches: (parts) => matrixOf(parts, "qweight")?.[1] === matrixOf(parts, "scales")?.[1] && parts.has("qweight"),
  parts: ["qweight", "qzeros", "scales", "g_idx"],
  open: async (parts, settings) => {
    const [codes, zeros, scales, index] = ["qweight", "qzeros", "scales", "g_idx"].map((name) => parts.get(name));
    const [[words, rows], [groups], zeroShape] = [
      matrixOf(parts, "qweight") ?? [0, 0],
      matrixOf(parts, "scales") ?? [0, 0],
      matrixOf(parts, "qzeros"),
    ];
    if (!codes || !zeros || !scales || !zeroShape) return "qweight, qzeros and scales belong together; one is missing";
    if (!index && settings["desc_act"] === true)
      return "desc_act is true, but there is no g_idx with the order of inputs";
    const layout = settings["checkpoint_format"] ?? settings["format"] ?? "gptq";
    if (layout !== "gptq" && layout !== "gptq_v2") return `its checkpoint_format is ${JSON.stringify(layout)}`;
    const bits = (32 * zeroShape[1]) / rows;
    if (![2, 3, 4, 8].includes(bits)) {
      return `qzeros ${shown(zeroShape)} for ${rows} outputs are no zero points of 2, 3, 4 or 8 bits`;
    }
    const columns = (32 * words) / bits;
    if (!Number.isInteger(columns) || zeroShape[0] !== groups || (index && index.shape.join() !== String(columns))) {
      const found = `qweight ${shown(codes.shape)}, qzeros ${shown(zeros.shape)}, scales ${shown(scales.shape)}`;
      return `${found}${index ? `, g_idx ${shown(index.shape)}` : ""} do not fit each other at ${bits} bits`;
    }
    const said = settings["group_size"];
    const groupSize = typeof said === "number" && said > 0 ? said : Math.ceil(columns / groups);
    if (!index && Math.ceil(columns / groupSize) !== groups) {
      return `group_size is ${groupSize}, but scales hold ${groups} groups for ${columns} inputs`;
    }
    return {
      shape: [rows, columns],
      scheme: `${bits} bits, ${groups === 1 ? "a scale for each row" : `${groups} groups of inputs`}`,
      read: async () => {
        const groupOf = await readGroups(index, { columns, groupSize, groups });
        const [packed, packedZeros] = [await readWords(codes), await readWords(zeros)];
        const { data: scale } = await toFloat32(scales);
        const code = streamed(bits);
        const stored = layout === "gptq" ? 1 : 0;
        const zero = Uint16Array.from(scale, (_, k) => {
          const at = Math.floor(k / rows) * zeroShape[1];
          return (code(packedZeros, at, 1, k % rows) + stored) % 2 ** bits;
        });
        const values = new Float32Array(rows * columns);
        for (let row = 0; row < rows; row++) {
          for (let i = 0; i < columns; i++) {
            const at = (groupOf[i] ?? 0) * rows + row;
            values[row * columns + i] = (scale[at] ?? 0) * (code(packed, row, rows, i) - (zero[at] ?? 0));
          }
        }
        return values;
      },
    };
  },
  mend: saveDequantised,
  samples: ["gptq-4", "gptq-8", "gptq-2", "gptq-3", "gptq-4-order", "gptq-4-v2"],
};
