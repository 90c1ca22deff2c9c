/**
 * The plain meaning of the look-up kernels, on arrays: what `assembly/lut.ts` does, value by value. Tables and integer
 * sums are the same to the bit; floats are added in the same order, in float32.
 */

const tablesPerBlock = 32;
const round = Math.fround;

/** Tables of a block, and the steps that their entries are counted in. */
export interface BlockTables {
  /** [tables][16], biased by 128: the highest byte's tables first. */
  readonly bytes: readonly Uint8Array[];
  /** One a byte of an entry. */
  readonly scales: readonly number[];
}

/**
 * Tables of one block. x [4·tables]: scaled inputs. Entry c of table t is Σ_g ±x[4t + g], + where bit g of c is set, in
 * steps of the largest Σ|x| of a table over 127, 127·2⁸ or 127·2¹⁶.
 */
export function blockTables(x: Float32Array, entryBytes: 1 | 2 | 3): BlockTables {
  const tables = x.length / 4;
  let largest = 0;
  for (let t = 0; t < tables; t++) {
    const [a = 0, b = 0, c = 0, d = 0] = x.subarray(4 * t, 4 * t + 4).map(Math.abs);
    largest = Math.max(largest, round(round(a + b) + round(c + d)));
  }
  const steps = 127 * 256 ** (entryBytes - 1);
  const inverse = largest === 0 ? 0 : round(steps / largest);
  const scale = round(largest / steps);
  const bytes = Array.from({ length: entryBytes }, () => new Uint8Array(16 * tables));
  for (let t = 0; t < tables; t++) {
    const [a = 0, b = 0, c = 0, d = 0] = x.subarray(4 * t, 4 * t + 4).map((value) => value * inverse);
    const sum = round(c + d);
    const difference = round(c - d);
    for (let code = 0; code < 16; code++) {
      const first = round((code & 1 ? a : -a) + (code & 2 ? b : -b));
      const second = [-sum, difference, -difference, sum][code >> 2] ?? 0;
      let entry = roundToEven(round(first + second));
      for (let byte = entryBytes - 1; byte >= 0; byte--) {
        const low = byte === 0 ? entry : (entry << 24) >> 24;
        const table = bytes[byte];
        if (table) table[16 * t + code] = low + 128;
        entry = (entry - low) >> 8;
      }
    }
  }
  return { bytes, scales: bytes.map((_, byte) => round(scale * 256 ** (entryBytes - 1 - byte))) };
}

/** To the nearest integer, halves to the even one. */
export function roundToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * y[64] += Σ over blocks of scale · Σ over its tables of (entry − 128): one tile, one pass. planes [tables][2][16] as
 * `docs/packed-format.md` lays them out, tables [tables][16], one scale a block.
 */
export function tile(planes: Uint8Array, tables: Uint8Array, scales: Float32Array, y: Float32Array): void {
  const count = tables.length / 16;
  for (let start = 0; start < count; start += tablesPerBlock) {
    const end = Math.min(count, start + tablesPerBlock);
    for (let row = 0; row < 64; row++) {
      const place = (row >> 5) * 16 + ((row & 15) < 8 ? 2 * (row & 7) : 2 * (row & 7) + 1);
      let sum = 0;
      for (let t = start; t < end; t++) {
        const code = ((planes[32 * t + place] ?? 0) >> (row & 16 ? 4 : 0)) & 15;
        sum += (tables[16 * t + code] ?? 0) - 128;
      }
      y[row] = round((y[row] ?? 0) + round(sum * (scales[start / tablesPerBlock] ?? 0)));
    }
  }
}
