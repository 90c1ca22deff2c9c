/**
 * A model of energy on a 45 nm process: picojoules of operations and of bits read from memory. Modelled, not measured.
 * Operations: You et al. 2024 (arXiv 2406.05981), Table 1, with the floating-point entries in the order of Horowitz 2014
 * (ISSCC, "Computing's energy problem", fig. 1.1.9), which the table has swapped. Memory: 200 pJ a word of 16 bits.
 */
export const picojoules = {
  multiplyFloat32: 3.7,
  multiplyFloat16: 1.1,
  addFloat32: 0.9,
  addFloat16: 0.4,
  addInt16: 0.05,
  shiftInt16: 0.057,
  /** A query of a table of 8 bits, which stands for 8 operations. */
  lookUp: 0.37,
  memoryBit: 12.5,
} as const;

/** What one token costs a matrix. */
export interface Energy {
  /** Picojoules of arithmetic. */
  readonly operations: number;
  /** Picojoules of reading weights. */
  readonly traffic: number;
}

/** What a matrix does for one token: how its weights are held decides. */
export interface EnergyShape {
  readonly rows: number;
  readonly columns: number;
  /** Bytes of the weights as they are read: planes and scales, or floats. */
  readonly bytes: number;
  /** Planes and scales, or floats of 16 bits. */
  readonly packed?: {
    readonly bits: number;
    readonly scales: number;
    /** Powers of two in a scale; 0 where scales multiply. */
    readonly terms: number;
  };
}

/**
 * Energy of one product with a vector. Floats: one multiplication and one addition a weight. Planes: tables of 16 sums
 * for every 4 columns of every plane, a look-up (of half the query of Table 1) and an addition for every 4 weights of a
 * plane, and for every scale a shift and an addition a term, or a multiplication.
 */
export function matrixEnergy({ rows, columns, bytes, packed }: EnergyShape): Energy {
  const traffic = 8 * bytes * picojoules.memoryBit;
  if (packed === undefined) {
    return { operations: rows * columns * (picojoules.multiplyFloat16 + picojoules.addFloat16), traffic };
  }
  const { bits, scales, terms } = packed;
  const tables = (bits * columns) / 4;
  const lookUps = tables * rows;
  const scaling = terms === 0 ? picojoules.multiplyFloat16 : terms * (picojoules.shiftInt16 + picojoules.addFloat16);
  const operations =
    tables * 16 * picojoules.addFloat16 + lookUps * (picojoules.lookUp / 2 + picojoules.addInt16) + scales * scaling;
  return { operations, traffic };
}
