import {
  type LazyTensor,
  makeNode,
  type ScaledCodes,
  type Tensor,
  type Value,
  type WeightValue,
} from "../graph/index.ts";
import { eachRows, toFloat32 } from "../io/convert.ts";
import { gather } from "../ops/index.ts";
import { derived, derivedCodes, toNearest, type WeightSite } from "./derived-weights.ts";

/*
 * ONNX Runtime's MatMulNBits (com.microsoft): codes [out, blocks, bytes], the first in the lower half of a byte, a scale
 * for each block, and w = scale·(code − zero), where zero is the middle unless zero points are given.
 */

/** What a product reads. */
interface Blocks {
  readonly bits: 4 | 8;
  readonly blockSize: number;
  readonly codes: WeightValue;
  readonly scales: WeightValue;
  readonly zeros?: WeightValue;
  /** Which inputs the columns of the codes multiply, where it is not theirs. */
  readonly order?: WeightValue;
}

/** x·Wᵀ: with a packed model's own codes where the operator can say them, with the weights rounded to 4 bits otherwise. */
export function blockProduct(x: Value, site: WeightSite): Value {
  const { scaled } = site.weight.source;
  const blocks = (scaled && ownBlocks(site, scaled)) ?? roundedBlocks(site);
  const { bits, blockSize, codes, scales, zeros, order } = blocks;
  const [tokens = 1] = x.shape;
  const { outputs } = makeNode({
    op: "MatMulNBits",
    domain: "com.microsoft",
    inputs: [order ? gather(x, order, 1) : x, codes, scales, ...(zeros ? [zeros] : [])],
    attributes: {
      K: { type: "int", value: site.inFeatures },
      N: { type: "int", value: site.outFeatures },
      bits: { type: "int", value: bits },
      block_size: { type: "int", value: blockSize },
    },
    outputs: [{ dtype: "float32", shape: [tokens, site.outFeatures] }],
  });
  return outputs[0] as Value; // it has one
}

const usualBlock = 32;

/** 4 bits without zero points. The value of largest magnitude of a block becomes code 0: there is one more below zero. */
function roundedBlocks({ weight: value, layout, inFeatures, outFeatures }: WeightSite): Blocks {
  const blocks = Math.ceil(inFeatures / usualBlock);
  const half = usualBlock / 2;
  const encode = async (): Promise<{ codes: Uint8Array; scales: Float32Array }> => {
    const codes = new Uint8Array(outFeatures * blocks * half);
    const scales = new Float32Array(outFeatures * blocks);
    const row = new Float32Array(blocks * usualBlock); // what is past the end stays zero
    const encodeRow = (o: number): void => {
      for (let block = 0; block < blocks; block++) {
        const at = o * blocks + block;
        scales[at] = encodeBlock(row, block * usualBlock, codes, at * half);
      }
    };
    if (layout === "out,in") {
      await eachRows(value.source, (part, first) => {
        for (let start = 0; start < part.length; start += inFeatures) {
          row.set(part.subarray(start, start + inFeatures));
          encodeRow(first + start / inFeatures);
        }
      });
    } else {
      const { data } = await toFloat32(value.source);
      for (let o = 0; o < outFeatures; o++) {
        for (let i = 0; i < inFeatures; i++) row[i] = data[i * outFeatures + o] ?? 0;
        encodeRow(o);
      }
    }
    return { codes, scales };
  };
  const made = {
    codes: { key: "q4", dtype: "uint8", shape: [outFeatures, blocks, half] },
    scales: { key: "q4_scales", dtype: "float32", shape: [outFeatures * blocks] },
  } as const;
  return { bits: 4, blockSize: usualBlock, ...derivedCodes(value, made, encode) };
}

/** Round 32 values to codes, two to a byte from `at` on, and return their scale. */
function encodeBlock(values: Float32Array, start: number, codes: Uint8Array, at: number): number {
  let [most, least] = [0, 0];
  for (let i = start; i < start + usualBlock; i++) {
    const w = values[i] ?? 0;
    most = Math.max(most, w);
    least = Math.min(least, w);
  }
  // Of two that are equally large, the first.
  const negative = most < -least || (most === -least && values.indexOf(least, start) < values.indexOf(most, start));
  const extreme = negative ? least : most;
  const scale = extreme / -8;
  const inverse = scale === 0 ? 0 : 1 / scale;
  for (let i = start, place = at; i < start + usualBlock; i += 2, place++) {
    // From 0 on: no value is larger than the extreme, whose code is 0.
    const low = ((values[i] ?? 0) * inverse + (8 + toNearest)) | 0;
    const high = ((values[i + 1] ?? 0) * inverse + (8 + toNearest)) | 0;
    codes[place] = (low > 15 ? 15 : low) | ((high > 15 ? 15 : high) << 4);
  }
  return scale;
}

/**
 * Codes of evenly spaced values in groups along the row, as they are: nothing is rounded again. Undefined for what the
 * operator has no form for: several planes, scales that rows share, groups that are no multiple of a power of two.
 */
function ownBlocks({ weight: value, inFeatures, outFeatures }: WeightSite, scaled: ScaledCodes): Blocks | undefined {
  const { levels, rowGroup, columnGroup, inOrder, columnGroups } = scaled;
  const [planes = 1] = scaled.codes.shape;
  if (planes !== 1 || rowGroup !== 1) return undefined;
  const wholeRow = columnGroup >= inFeatures;
  const blockSize = wholeRow ? usualBlock : powerOfTwoIn(columnGroup);
  if (blockSize < 16) return undefined;
  const bits = levels <= 16 ? 4 : 8;
  const blocks = Math.ceil(inFeatures / blockSize);
  const groups = Math.ceil(inFeatures / columnGroup);
  const blockBytes = (blockSize * bits) / 8;
  const zeroBytes = Math.ceil((blocks * bits) / 8);
  const order = async (): Promise<BigInt64Array> => {
    if (inOrder || !columnGroups) return BigInt64Array.from({ length: inFeatures }, (_, k) => BigInt(k));
    const of = await whole(columnGroups);
    return BigInt64Array.from(
      Array.from({ length: inFeatures }, (_, k) => k).sort((a, b) => Number(of[a]) - Number(of[b]) || a - b),
      BigInt,
    );
  };
  const encode = async (): Promise<{ codes: Uint8Array; zeros: Uint8Array }> => {
    const [signed, columns] = [await whole(scaled.codes), await order()];
    const codes = new Uint8Array(outFeatures * blocks * blockBytes);
    const zeros = new Uint8Array(outFeatures * zeroBytes);
    for (let o = 0; o < outFeatures; o++) {
      for (let block = 0; block < blocks; block++) {
        const from = block * blockSize;
        const to = Math.min(inFeatures, from + blockSize);
        const code = (i: number): number => Number(signed[o * inFeatures + Number(columns[i])]);
        let zero = 0;
        for (let i = from; i < to; i++) zero = Math.max(zero, -code(i));
        put(zeros.subarray(o * zeroBytes, (o + 1) * zeroBytes), block, zero, bits);
        const into = codes.subarray((o * blocks + block) * blockBytes, (o * blocks + block + 1) * blockBytes);
        for (let i = from; i < to; i++) put(into, i - from, code(i) + zero, bits);
      }
    }
    return { codes, zeros };
  };
  return {
    bits,
    blockSize,
    codes: derived(value, "codes", {
      dtype: "uint8",
      shape: [outFeatures, blocks, blockBytes],
      read: async () => (await encode()).codes,
    }),
    scales: derived(value, "code_scales", {
      dtype: "float32",
      shape: [outFeatures * blocks],
      read: async () => {
        const scales = await whole(scaled.scales);
        return Float32Array.from({ length: outFeatures * blocks }, (_, at) => {
          const group = Math.floor(((at % blocks) * blockSize) / columnGroup);
          return Number(scales[Math.floor(at / blocks) * groups + group]);
        });
      },
    }),
    zeros: derived(value, "code_zeros", {
      dtype: "uint8",
      shape: [outFeatures * zeroBytes],
      read: async () => (await encode()).zeros,
    }),
    ...(inOrder ? {} : { order: derived(value, "code_order", { dtype: "int64", shape: [inFeatures], read: order }) }),
  };
}

/** Store a code in 4 bits, the first of a byte in its lower half, or in 8. */
function put(bytes: Uint8Array, index: number, code: number, bits: 4 | 8): void {
  if (bits === 8) bytes[index] = code;
  else bytes[index >> 1] = (bytes[index >> 1] ?? 0) | (code << (4 * (index & 1)));
}

/** The largest power of two that divides `count`, 256 at most. */
function powerOfTwoIn(count: number): number {
  return Math.min(256, count & -count);
}

async function whole(tensor: LazyTensor): Promise<Tensor["data"]> {
  return (await tensor.read()).data;
}
