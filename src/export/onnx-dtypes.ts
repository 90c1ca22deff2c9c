import {
  constant,
  type LazyTensor,
  makeNode,
  sizeOf,
  type Tensor,
  type Value,
  type WeightValue,
} from "../graph/index.ts";
import { castTensor, eachRows } from "../io/convert.ts";
import { add, cast, findOp, gather, gemm, type LinearSite, mul, sub } from "../ops/index.ts";
import { rewrite } from "../transforms/index.ts";
import { blockProduct } from "./block-product.ts";
import { derived, type WeightSite } from "./derived-weights.ts";

/** What the matrices of an exported graph are held in. Vectors, and what is computed between products, stay float32. */
export interface OnnxDtype {
  /** What transformers.js puts behind a file's name. */
  readonly suffix: string;
  readonly summary: string;
  /** Bits that a value of a matrix takes at least, of a model that is packed or is not. */
  readonly leastBits: (packed: boolean) => number;
  /** x·Wᵀ, without a bias. */
  readonly product: (x: Value, site: WeightSite) => Value;
  /** Rows of a table of embeddings, in float32. */
  readonly rows: (table: WeightValue, indices: Value) => Value;
}

/** Names as transformers.js has them. */
export type OnnxDtypeName = "fp32" | "fp16" | "q8" | "q4";

/** Every way to hold an exported graph's matrices. Inputs and outputs are float32 (and int64) in all of them. */
export const onnxDtypes: Readonly<Record<OnnxDtypeName, OnnxDtype>> = {
  fp32: {
    suffix: "",
    summary: "float32",
    leastBits: () => 32,
    product: (x, { weight: w, layout }) => gemm(x, w, { transB: layout === "out,in" }),
    rows: gather,
  },
  fp16: {
    suffix: "_fp16",
    summary: "matrices and their products in float16",
    leastBits: () => 16,
    product: (x, { weight: w, layout }) =>
      cast(gemm(cast(x, "float16"), halves(w), { transB: layout === "out,in" }), "float32"),
    rows: (table, indices) => cast(gather(halves(table), indices), "float32"),
  },
  /** As optimum quantises dynamically: activations in 8 bits by tensor, weights in 8 bits by row, products of integers. */
  q8: {
    suffix: "_quantized",
    summary: "8-bit integers, a scale for each row; activations too, as they come",
    leastBits: () => 8,
    product: (x, site) => {
      const { codes, scales } = rowCodes(site.weight, site.layout);
      const [quantised, scale, zero] = quantiseInput(x);
      const [tokens = 1] = x.shape;
      const outputs = [{ dtype: "int32", shape: [tokens, site.outFeatures] }] as const;
      const inputs = [quantised, codes, zero, constant(rowZero, "uint8", [])];
      return mul(cast(resultOf({ op: "MatMulInteger", inputs, outputs }), "float32"), mul(scale, scales));
    },
    rows: rowsOf8,
  },
  /** ONNX Runtime's MatMulNBits, which its WebAssembly and WebGPU builds have; embeddings in 8 bits. */
  q4: {
    suffix: "_q4",
    summary:
      "4-bit integers, a scale for each 32 values of a row, or the codes of a packed model where they fit; embeddings in 8 bits",
    leastBits: (packed) => (packed ? 2 : 4),
    product: blockProduct,
    rows: rowsOf8,
  },
};

/** Put a graph's products with weights, and its tables of embeddings, into a dtype. */
export function inDtype(outputs: readonly Value[], dtype: OnnxDtypeName): readonly Value[] {
  if (dtype === "fp32") return outputs;
  const { product, rows } = onnxDtypes[dtype];
  return rewrite(outputs, {
    node: (node, inputs) => {
      const site = findOp(node.domain, node.op)?.linear?.(node);
      const x = inputs[0];
      if (site?.weight.kind === "weight" && x?.shape.length === 2) {
        const y = product(x, { ...site, weight: site.weight });
        return [site.bias ? add(y, site.bias) : y];
      }
      const [table] = node.inputs;
      if (node.op !== "Gather" || table?.kind !== "weight" || table.shape.length !== 2) return undefined;
      return [rows(table, inputs[1] as Value)]; // a gather has indices
    },
  });
}

function resultOf(options: Parameters<typeof makeNode>[0]): Value {
  return makeNode(options).outputs[0] as Value; // each has one
}

function halves(value: WeightValue): WeightValue {
  const { shape } = value.source;
  const read = async (): Promise<Tensor["data"]> => {
    const patterns = new Uint16Array(sizeOf(shape));
    const width = sizeOf(shape.slice(1));
    await eachRows(value.source, (part, first) => {
      for (let i = 0; i < part.length; i++) part[i] = Math.min(65504, Math.max(-65504, part[i] ?? 0));
      patterns.set(castTensor({ dtype: "float32", shape: [part.length], data: part }, "float16").data, first * width);
    });
    return patterns;
  };
  return derived(value, "float16", { dtype: "float16", shape, read });
}

/** The code of zero: unsigned bytes, for products of signed ones saturate on processors without VNNI. */
const rowZero = 128;

/** Bytes [in, out] and scales [out]: w = scale·(code − 128), the scale a 127th of the largest that an output reads. */
function rowCodes(value: WeightValue, layout: LinearSite["layout"]): { codes: WeightValue; scales: WeightValue } {
  const { source } = value;
  const upright = layout === "out,in";
  const [rows = 1, columns = 1] = source.shape;
  const [outs, ins] = upright ? [rows, columns] : [columns, rows];
  return {
    codes: derived(value, "quantized", {
      dtype: "uint8",
      shape: [ins, outs],
      read: async () => {
        const scales = await outputScales(source, upright);
        const codes = new Uint8Array(ins * outs);
        await eachRows(source, (part, first) => {
          const count = part.length / columns;
          if (upright) turnedCodes({ part, count, columns, first, outs, scales, codes });
          else
            for (let row = 0, i = 0; row < count; row++) {
              const start = (first + row) * outs;
              for (let o = 0; o < columns; o++, i++) codes[start + o] = code8(part[i] ?? 0, scales[o] ?? 1);
            }
        });
        return codes;
      },
    }),
    scales: derived(value, "scale", {
      dtype: "float32",
      shape: [outs],
      read: () => outputScales(source, upright),
    }),
  };
}

/** Columns that are turned together: so many bytes of one line of a cache, and as many places that are written. */
const turned = 16;

/** The codes of whole rows, each row being an output, as columns of [in, out]: few places at a time, for a cache's sake. */
function turnedCodes({
  part,
  count,
  columns,
  first,
  outs,
  scales,
  codes,
}: {
  readonly part: Float32Array;
  readonly count: number;
  readonly columns: number;
  readonly first: number;
  readonly outs: number;
  readonly scales: Float32Array;
  readonly codes: Uint8Array;
}): void {
  for (let start = 0; start < columns; start += turned) {
    const end = Math.min(columns, start + turned);
    for (let row = 0; row < count; row++) {
      const scale = scales[first + row] ?? 1;
      const from = row * columns;
      const to = first + row;
      for (let column = start; column < end; column++)
        codes[column * outs + to] = code8(part[from + column] ?? 0, scale);
    }
  }
}

/** A scale for each row of a matrix, or each column: a 127th of its largest, or 1 where all of it is zero. */
async function outputScales(source: LazyTensor, byRow: boolean): Promise<Float32Array> {
  const [rows = 1, columns = 1] = source.shape;
  const largest = new Float32Array(byRow ? rows : columns);
  await eachRows(source, (part, first) => {
    const count = part.length / columns;
    for (let row = 0, i = 0; row < count; row++) {
      let most = byRow ? (largest[first + row] ?? 0) : 0;
      for (let column = 0; column < columns; column++, i++) {
        const size = Math.abs(part[i] ?? 0);
        if (byRow) {
          if (size > most) most = size;
        } else if (size > (largest[column] ?? 0)) largest[column] = size;
      }
      if (byRow) largest[first + row] = most;
    }
  });
  return largest.map((value) => (value === 0 ? 1 : value / 127));
}

function code8(value: number, scale: number): number {
  return Math.round(value / scale) + rowZero;
}

/** Rows of a table held as bytes: scale·(code − 128). */
function rowsOf8(table: WeightValue, indices: Value): Value {
  const { source } = table;
  const [count = 1, width = 1] = source.shape;
  const codes = derived(table, "rows_quantized", {
    dtype: "uint8",
    shape: [count, width],
    read: async () => {
      const scales = await outputScales(source, true);
      const bytes = new Uint8Array(count * width);
      await eachRows(source, (part, first) => {
        const count = part.length / width;
        for (let row = 0, i = 0; row < count; row++) {
          const scale = scales[first + row] ?? 1;
          for (let column = 0; column < width; column++, i++) bytes[first * width + i] = code8(part[i] ?? 0, scale);
        }
      });
      return bytes;
    },
  });
  const scales = derived(table, "rows_scale", {
    dtype: "float32",
    shape: [count, 1],
    read: () => outputScales(source, true),
  });
  return mul(sub(cast(gather(codes, indices), "float32"), rowZero), gather(scales, indices));
}

/** Bytes, a scale and a zero point for what a product reads (ONNX DynamicQuantizeLinear). */
function quantiseInput(x: Value): readonly [Value, Value, Value] {
  const outputs = [
    { dtype: "uint8", shape: x.shape },
    { dtype: "float32", shape: [] },
    { dtype: "uint8", shape: [] },
  ] as const;
  return makeNode({ op: "DynamicQuantizeLinear", inputs: [x], outputs }).outputs as unknown as [Value, Value, Value]; // three
}
