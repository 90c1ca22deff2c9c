import type { LazyTensor } from "../../graph/index.ts";
import { toFloat32 } from "../convert.ts";
import { isJsonObject, type JsonObject, parseJson } from "../json.ts";
import { readBytes } from "./codes.ts";
import { type QuantisedFormat, saveDequantised, shown } from "./format.ts";

const states = ["nf4", "fp4"].map((type) => `weight.quant_state.bitsandbytes__${type}`);
const needed = ["weight", "weight.absmax", "weight.quant_map"];
/** A state is a few words and numbers. */
const mostStateBytes = 65536;
const nested = ["weight.nested_absmax", "weight.nested_quant_map"];

/**
 * QLoRA's NF4 and FP4: w[k] = map[code[k]]·absmax[⌊k/blocksize⌋] over the elements of a matrix, row by row, the first of two
 * codes in the high half of a byte. With double quantisation the absmax are codes too:
 * absmax[b] = nested_map[code[b]]·nested_absmax[⌊b/nested_blocksize⌋] + offset. Dettmers et al. 2023 (arXiv 2305.14314), §3.
 */
export const bitsandbytes4bit: QuantisedFormat = {
  name: "bitsandbytes 4-bit",
  methods: ["bitsandbytes", "bitsandbytes_4bit"],
  cite: "bitsandbytes, `QuantState.as_dict` and `dequantize_4bit`",
  matches: (parts) => [...needed.slice(1), ...states].some((name) => parts.has(name)),
  parts: [...needed, ...nested, ...states],
  open: async (parts) => {
    const [weight, absmax, map] = needed.map((name) => parts.get(name));
    const [stateName, state] = [...parts].find(([name]) => states.includes(name)) ?? [];
    if (!weight || !absmax || !map || !state || !stateName) {
      return `${[...needed, states[0]].join(", ")} (or fp4) belong together, and one is missing`;
    }
    if (state.sizeBytes > mostStateBytes) return `${stateName} takes ${state.sizeBytes} bytes, which no such text does`;
    const said = parseState(await readBytes(state));
    const { shape, blocksize, nested_blocksize: outer = 0, nested_offset: offset = 0 } = said ?? {};
    if (!isShape(shape) || !isCount(blocksize)) return `${stateName} names no shape of two sizes and no blocksize`;
    const [rows, columns] = shape;
    const count = rows * columns;
    const blocks = Math.ceil(count / blocksize);
    if (map.shape.join() !== "16") return `weight.quant_map is ${shown(map.shape)}, not [16]`;
    if (weight.sizeBytes !== Math.ceil(count / 2)) {
      return `weight takes ${weight.sizeBytes} bytes, but ${shown(shape)} takes ${Math.ceil(count / 2)} at 4 bits`;
    }
    if (absmax.shape.join() !== String(blocks)) {
      return `weight.absmax is ${shown(absmax.shape)}, but ${shown(shape)} has ${blocks} blocks of ${blocksize}`;
    }
    const [absmaxOfBlocks, absmaxMap] = nested.map((name) => parts.get(name));
    const double = absmax.dtype === "uint8";
    if (double) {
      if (!absmaxOfBlocks || !absmaxMap || !isCount(outer) || typeof offset !== "number") {
        return `weight.absmax holds codes, but ${nested.join(", ")}, nested_blocksize or nested_offset is missing`;
      }
      const outerBlocks = Math.ceil(blocks / outer);
      if (absmaxOfBlocks.shape.join() !== String(outerBlocks) || absmaxMap.shape.join() !== "256") {
        return `${nested.join(" and ")} are ${shown(absmaxOfBlocks.shape)} and ${shown(absmaxMap.shape)}, not [${outerBlocks}] and [256]`;
      }
    }
    return {
      shape: [rows, columns],
      scheme: `${stateName.slice(-3)} in blocks of ${blocksize}${double ? ", double quantisation" : ""}`,
      read: async () => {
        const scales =
          double && absmaxOfBlocks && absmaxMap
            ? await nestedScales(absmax, absmaxOfBlocks, absmaxMap, outer as number, offset as number) // checked above
            : (await toFloat32(absmax)).data;
        const codes = await readBytes(weight);
        const { data: values } = await toFloat32(map);
        const result = new Float32Array(count);
        for (let k = 0; k < count; k++) {
          const byte = codes[k >> 1] ?? 0;
          result[k] = (values[k & 1 ? byte & 15 : byte >> 4] ?? 0) * (scales[Math.floor(k / blocksize)] ?? 0);
        }
        return result;
      },
    };
  },
  mend: saveDequantised,
  samples: ["bitsandbytes-nf4", "bitsandbytes-fp4", "bitsandbytes-nf4-double"],
};

async function nestedScales(
  absmax: LazyTensor,
  absmaxOfBlocks: LazyTensor,
  map: LazyTensor,
  blocksize: number,
  offset: number,
): Promise<Float32Array> {
  const codes = await readBytes(absmax);
  const [{ data: outer }, { data: values }] = [await toFloat32(absmaxOfBlocks), await toFloat32(map)];
  return Float32Array.from(codes, (code, b) => (values[code] ?? 0) * (outer[Math.floor(b / blocksize)] ?? 0) + offset);
}

/** The state is JSON in the bytes of a tensor. */
function parseState(bytes: Uint8Array): JsonObject | undefined {
  try {
    const value: unknown = parseJson(new TextDecoder().decode(bytes));
    return isJsonObject(value) ? value : undefined;
  } catch {
    return undefined; // the caller says what it lacks
  }
}

function isShape(value: unknown): value is readonly [number, number] {
  return Array.isArray(value) && value.length === 2 && value.every(isCount);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) > 0;
}
