import { toFloat32 } from "../convert.ts";
import { readNumbers } from "./codes.ts";
import {
  matrixOf,
  type Parts,
  type QuantisationSettings,
  type QuantisedFormat,
  saveDequantised,
  shown,
} from "./format.ts";

/** Scales of activations and of a key–value cache: nothing is rounded while Scion computes, so they are not needed. */
const ofActivations = ["input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"];

/**
 * Matrices of 8-bit integers in their own shape, with scales beside them: w[o, i] = (code[o, i] − zero)·weight_scale, a scale
 * for all, for each row, or for groups of a row's inputs.
 */
export const int8Scaled: QuantisedFormat = {
  name: "compressed-tensors int8",
  methods: ["compressed-tensors"],
  cite: "compressed-tensors, formats `int-quantized` and `naive-quantized`",
  matches: (parts) => parts.get("weight")?.dtype === "int8" && parts.has("weight_scale"),
  parts: ["weight", "weight_scale", "weight_zero_point", "weight_g_idx", ...ofActivations],
  open: (parts, settings) => openScaled(parts, "weight_scale", settings),
  mend: saveDequantised,
  samples: ["int8-channel", "int8-tensor", "int8-groups"],
};

/**
 * Matrices of float8 in their own shape, with scales beside them that the codes are multiplied by: one for all, for each row,
 * for groups of a row's inputs, or for blocks of rows and inputs (DeepSeek's `weight_scale_inv`, 128 by 128).
 * Micikevicius et al. 2022 (arXiv 2209.05433); DeepSeek-AI 2024 (arXiv 2412.19437), §3.3.
 */
export const float8Scaled: QuantisedFormat = {
  name: "float8 with scales",
  methods: ["fp8", "compressed-tensors", "fbgemm_fp8"],
  cite: "compressed-tensors, format `float-quantized`; transformers, `FP8Linear`; DeepSeek-V3, `weight_dequant`",
  matches: (parts) =>
    parts.get("weight")?.dtype.startsWith("float8") === true &&
    (parts.has("weight_scale") || parts.has("weight_scale_inv")),
  parts: ["weight", "weight_scale", "weight_scale_inv", "activation_scale", "input_scale_ub", ...ofActivations],
  open: async (parts, settings) => {
    if (parts.has("weight_scale") && parts.has("weight_scale_inv")) return "it has weight_scale and weight_scale_inv";
    return openScaled(parts, parts.has("weight_scale_inv") ? "weight_scale_inv" : "weight_scale", settings);
  },
  mend: saveDequantised,
  samples: ["float8-e4m3-tensor", "float8-e5m2-channel", "float8-blocks"],
};

async function openScaled(
  parts: Parts,
  scaleName: string,
  settings: QuantisationSettings,
): ReturnType<QuantisedFormat["open"]> {
  const [weight, scales, zeros, index] = ["weight", scaleName, "weight_zero_point", "weight_g_idx"].map((name) =>
    parts.get(name),
  );
  const shape = matrixOf(parts, "weight");
  if (!weight || !scales || !shape) return `weight is ${shown(weight?.shape ?? [])}, no matrix`;
  if (index) return "weight_g_idx with whole codes is not read";
  const [rows, columns] = shape;
  const grid = gridOf(scales.shape, shape, settings);
  if (grid === undefined) return `${scaleName} is ${shown(scales.shape)}, which does not spread over ${shown(shape)}`;
  if (zeros && zeros.shape.join() !== scales.shape.join()) {
    return `weight_zero_point is ${shown(zeros.shape)}, ${scaleName} ${shown(scales.shape)}`;
  }
  const { rowGroup, columnGroup, across } = grid;
  return {
    shape,
    scheme: `${weight.dtype}, ${describe(grid, shape)}`,
    read: async () => {
      const [codes, { data: scale }] = [await readNumbers(weight), await toFloat32(scales)];
      const zero = zeros ? await readNumbers(zeros) : undefined;
      const values = new Float32Array(rows * columns);
      for (let row = 0; row < rows; row++) {
        const first = Math.floor(row / rowGroup) * across;
        for (let i = 0; i < columns; i++) {
          const at = first + Math.floor(i / columnGroup);
          values[row * columns + i] = ((codes[row * columns + i] ?? 0) - (zero?.[at] ?? 0)) * (scale[at] ?? 0);
        }
      }
      return values;
    },
  };
}

/** How scales lie over a matrix: each over `rowGroup` rows and `columnGroup` inputs, `across` of them side by side. */
interface Grid {
  readonly rowGroup: number;
  readonly columnGroup: number;
  readonly across: number;
}

function gridOf(
  scales: readonly number[],
  [rows, columns]: readonly [number, number],
  settings: QuantisationSettings,
): Grid | undefined {
  const [down = 1, across = 1, ...more] = scales;
  if (more.length > 0) return undefined;
  if (down * across === 1) return { rowGroup: rows, columnGroup: columns, across: 1 };
  if (scales.length === 1) return down === rows ? { rowGroup: 1, columnGroup: columns, across: 1 } : undefined;
  const [blockRows, blockColumns] = blockSize(settings);
  if (down === Math.ceil(rows / blockRows) && across === Math.ceil(columns / blockColumns)) {
    return { rowGroup: blockRows, columnGroup: blockColumns, across };
  }
  if (down === rows && columns % across === 0) return { rowGroup: 1, columnGroup: columns / across, across };
  return undefined;
}

/** 128 by 128 unless the settings name another size (transformers, or compressed-tensors' `block_structure`). */
function blockSize(settings: QuantisationSettings): readonly [number, number] {
  const said = settings["weight_block_size"] ?? settings["block_structure"];
  const [rows, columns] = Array.isArray(said) ? said.map(Number) : [];
  return rows !== undefined && columns !== undefined && rows > 0 && columns > 0 ? [rows, columns] : [128, 128];
}

function describe({ rowGroup, columnGroup }: Grid, [rows, columns]: readonly [number, number]): string {
  if (rowGroup === rows && columnGroup === columns) return "one scale";
  if (rowGroup === 1) return columnGroup === columns ? "a scale for each row" : `groups of ${columnGroup}`;
  return `blocks of ${rowGroup} by ${columnGroup}`;
}
