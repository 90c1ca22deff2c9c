import {
  constant,
  type LazyTensor,
  makeNode,
  sizeOf,
  type Tensor,
  type Value,
  type WeightValue,
} from "../graph/index.ts";
import { eachRows, float32ToFloat16 } from "../io/convert.ts";
import { add, cast, findOp, gather, gemm, type LinearSite, mul, sub } from "../ops/index.ts";
import { rewrite } from "../transforms/index.ts";
import { blockProduct } from "./block-product.ts";
import { derived, derivedCodes, toNearest, type WeightSite } from "./derived-weights.ts";

/** What the matrices of an exported graph are held in. Vectors, and what is computed between products, stay float32. */
export interface OnnxDtype {
  /** What transformers.js puts behind a file's name. */
  readonly suffix: string;
  readonly summary: string;
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
    product: (x, { weight: w, layout }) => gemm(x, w, { transB: layout === "out,in" }),
    rows: gather,
  },
  fp16: {
    suffix: "_fp16",
    summary: "matrices and their products in float16",
    product: (x, { weight: w, layout }) =>
      cast(gemm(cast(x, "float16"), halves(w), { transB: layout === "out,in" }), "float32"),
    rows: (table, indices) => cast(gather(halves(table), indices), "float32"),
  },
  /** As optimum quantises dynamically: activations in 8 bits by tensor, weights in 8 bits by row, products of integers. */
  q8: {
    suffix: "_quantized",
    summary: "8-bit integers, a scale for each row; activations too, as they come",
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
      float32ToFloat16(part, patterns.subarray(first * width, first * width + part.length));
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
  const [rows = 1, columns = 1] = source.shape;
  const [outs, ins] = layout === "out,in" ? [rows, columns] : [columns, rows];
  const upright = async (): Promise<Codes> => {
    const [codes, scales] = [new Uint8Array(ins * outs), new Float32Array(outs)];
    await eachRows(source, (part, first) => {
      const count = part.length / columns;
      rowScales(part, columns, scales.subarray(first, first + count));
      turnedCodes({ part, count, columns, first, outs, scales, codes });
    });
    return { codes, scales };
  };
  const turned = async (): Promise<Codes> => {
    const [codes, scales] = [new Uint8Array(ins * outs), await columnScales(source)];
    const inverses = Float64Array.from(scales, (scale) => 1 / scale);
    await eachRows(source, (part, first) => {
      for (let start = 0, to = first * outs; start < part.length; start += columns, to += columns)
        for (let o = 0; o < columns; o++) codes[to + o] = code8(part[start + o] ?? 0, inverses[o] ?? 1);
    });
    return { codes, scales };
  };
  const made = {
    codes: { key: "quantized", dtype: "uint8", shape: [ins, outs] },
    scales: { key: "scale", dtype: "float32", shape: [outs] },
  } as const;
  return derivedCodes(value, made, layout === "out,in" ? upright : turned);
}

interface Codes {
  readonly codes: Uint8Array;
  readonly scales: Float32Array;
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
      const inverse = 1 / (scales[first + row] ?? 1);
      const from = row * columns;
      const to = first + row;
      for (let column = start; column < end; column++)
        codes[column * outs + to] = code8(part[from + column] ?? 0, inverse);
    }
  }
}

/** The scale of each row of a part: a 127th of its largest, or 1 where all of it is zero. */
function rowScales(part: Float32Array, columns: number, scales: Float32Array): void {
  for (let row = 0, at = 0; row < scales.length; row++) {
    let most = 0;
    for (let column = 0; column < columns; column++, at++) {
      const size = Math.abs(part[at] ?? 0);
      if (size > most) most = size;
    }
    scales[row] = most === 0 ? 1 : most / 127;
  }
}

/** The same of each column of a matrix. */
async function columnScales(source: LazyTensor): Promise<Float32Array> {
  const [, columns = 1] = source.shape;
  const largest = new Float32Array(columns);
  await eachRows(source, (part) => {
    for (let start = 0; start < part.length; start += columns)
      for (let column = 0; column < columns; column++) {
        const size = Math.abs(part[start + column] ?? 0);
        if (size > (largest[column] ?? 0)) largest[column] = size;
      }
  });
  return largest.map((value) => (value === 0 ? 1 : value / 127));
}

/** The nearest code, by the inverse of its scale. */
function code8(value: number, inverse: number): number {
  const code = (value * inverse + (rowZero + toNearest)) | 0;
  return code < 1 ? 1 : code > 255 ? 255 : code; // a scale too small for its own precision would leave the range
}

/** Rows of a table held as bytes: scale·(code − 128). */
function rowsOf8(table: WeightValue, indices: Value): Value {
  const { source } = table;
  const [count = 1, width = 1] = source.shape;
  const encode = async (): Promise<Codes> => {
    const [codes, scales] = [new Uint8Array(count * width), new Float32Array(count)];
    await eachRows(source, (part, first) => {
      const rows = part.length / width;
      rowScales(part, width, scales.subarray(first, first + rows));
      for (let row = first, at = 0; row < first + rows; row++) {
        const inverse = 1 / (scales[row] ?? 1);
        for (let to = row * width; to < (row + 1) * width; to++, at++) codes[to] = code8(part[at] ?? 0, inverse);
      }
    });
    return { codes, scales };
  };
  const made = {
    codes: { key: "rows_quantized", dtype: "uint8", shape: [count, width] },
    scales: { key: "rows_scale", dtype: "float32", shape: [count, 1] },
  } as const;
  const { codes, scales } = derivedCodes(table, made, encode);
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
