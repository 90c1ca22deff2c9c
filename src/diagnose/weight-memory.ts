/** Gives arrays for matrices that are needed one after the other. */
export interface WeightMemory {
  /** An array of `length` values, whatever they are. It is another's once the next is taken. */
  take(length: number): Float32Array<ArrayBuffer>;
}

/**
 * One piece of memory for all weights of a walk. Memory that a process touches for the first time takes longer than what is
 * computed of a weight that is read into it.
 */
export function weightMemory(): WeightMemory {
  let kept = new ArrayBuffer(0);
  return {
    take: (length) => {
      if (kept.byteLength < 4 * length) kept = new ArrayBuffer(4 * length);
      return new Float32Array(kept, 0, length);
    },
  };
}
