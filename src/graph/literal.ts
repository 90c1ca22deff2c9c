/** How names, numbers and tensors are spelt in graph text. Shared by the printer and the parser. */

import {
  allocate,
  bytesPerElement,
  type DataOf,
  type DType,
  isFloat,
  isPattern,
  sizeOf,
  type Tensor,
} from "./tensor.ts";

/** Words that begin a line or stand for something, so a value of that name is quoted. */
const reserved: ReadonlySet<string> = new Set(["_", "constant", "from", "parameter", "return", "weight"]);

/** A name as graph text spells it: bare, or quoted as in JSON when it holds other characters. */
export function spellName(name: string): string {
  return /^[\w./-]+$/.test(name) && !reserved.has(name) ? name : JSON.stringify(name);
}

/** A float with the fewest digits that read back as the same number; `single` when it holds a float32. */
export function spellFloat(value: number, single: boolean): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0";
  if (!single || Number.isInteger(value)) return String(value);
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return String(short);
  }
  return String(Number(value.toPrecision(9))); // nine digits tell any two float32 apart
}

/** The float a word spells; undefined when it spells none. */
export function readFloat(word: string): number | undefined {
  if (word === "nan") return Number.NaN;
  if (word === "inf" || word === "-inf") return word === "inf" ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  return /^-?\d+(\.\d+)?(e[+-]?\d+)?$/.test(word) ? Number(word) : undefined;
}

/** The elements of a tensor: a bare element for a scalar, a flat list otherwise. Floats of 16 and 8 bits show their patterns. */
export function spellElements({ dtype, shape, data }: Tensor): string {
  const spell = (element: number | bigint): string => {
    if (dtype === "bool") return element === 0 ? "false" : "true";
    if (isPattern(dtype)) return `0x${element.toString(16).padStart(2 * bytesPerElement(dtype), "0")}`;
    return typeof element === "number" && isFloat(dtype) ? spellFloat(element, dtype === "float32") : String(element);
  };
  const elements = Array.from<number | bigint, string>(data, spell);
  return shape.length === 0 ? (elements[0] ?? "") : `[${elements.join(", ")}]`;
}

/** A tensor from the words of its elements; undefined when there are too many or few, or one does not fit the dtype. */
export function readElements(dtype: DType, shape: readonly number[], words: readonly string[]): Tensor | undefined {
  if (words.length !== sizeOf(shape)) return undefined;
  const data: DataOf = allocate(dtype, words.length);
  for (const [i, word] of words.entries()) {
    if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
      if (!/^-?\d+$/.test(word)) return undefined;
      data[i] = BigInt(word);
      if (data[i] !== BigInt(word)) return undefined; // it did not fit
      continue;
    }
    const element = readElement(dtype, word);
    if (element === undefined) return undefined;
    data[i] = element;
    if (!isFloat(dtype) && data[i] !== element) return undefined; // as above
  }
  return { dtype, shape, data };
}

function readElement(dtype: DType, word: string): number | undefined {
  if (dtype === "bool") return word === "true" ? 1 : word === "false" ? 0 : undefined;
  if (isPattern(dtype)) {
    return /^0x[\da-f]+$/.test(word) && word.length === 2 + 2 * bytesPerElement(dtype) ? Number(word) : undefined;
  }
  return isFloat(dtype) || /^-?\d+$/.test(word) ? readFloat(word) : undefined;
}
