import type { DType } from "../graph/index.ts";

/** How the bits of a float8 are cut, and which patterns are no numbers. OCP 8-bit floating point 1.0, table 1; MX 1.0, §5.4.1. */
const layouts: Readonly<Partial<Record<DType, (pattern: number) => number>>> = {
  // One NaN of either sign, and no infinities.
  float8e4m3fn: (pattern) => ((pattern & 0x7f) === 0x7f ? Number.NaN : signed(pattern, 3, 7)),
  float8e5m2: (pattern) => {
    if ((pattern & 0x7c) !== 0x7c) return signed(pattern, 2, 15);
    if ((pattern & 3) !== 0) return Number.NaN;
    return pattern < 128 ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  },
  // An exponent alone.
  float8e8m0: (pattern) => (pattern === 255 ? Number.NaN : 2 ** (pattern - 127)),
};

const tables = new Map<DType, Float32Array>();

/** Every value of a float of 8 bits, by its pattern; undefined for other dtypes. */
export function float8Table(dtype: DType): Float32Array | undefined {
  const value = layouts[dtype];
  if (value === undefined) return undefined;
  const table = tables.get(dtype) ?? Float32Array.from({ length: 256 }, (_, pattern) => value(pattern));
  tables.set(dtype, table);
  return table;
}

function signed(pattern: number, fractionBits: number, bias: number): number {
  const sign = pattern < 128 ? 1 : -1;
  const exponent = (pattern & 0x7f) >> fractionBits;
  const fraction = (pattern & ((1 << fractionBits) - 1)) / 2 ** fractionBits;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}
