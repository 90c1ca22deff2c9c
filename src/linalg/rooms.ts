/**
 * Memory that is used again from one computation to the next: touching fresh memory can take longer than filling it. What an
 * array holds when it is taken is left from before; who takes another of the same name takes the same memory.
 */
export interface Rooms {
  bytes(name: string, length: number): Uint8Array<ArrayBuffer>;
  float32(name: string, length: number): Float32Array<ArrayBuffer>;
  float64(name: string, length: number): Float64Array<ArrayBuffer>;
}

/** Rooms that are empty at first, and grow to the largest that was asked for. */
export function createRooms(): Rooms {
  const kept = new Map<string, ArrayBuffer>();
  const memory = (name: string, count: number): ArrayBuffer => {
    const known = kept.get(name);
    if (known && known.byteLength >= count) return known;
    kept.delete(name); // before its successor is there
    const made = new ArrayBuffer(count);
    kept.set(name, made);
    return made;
  };
  return {
    bytes: (name, length) => new Uint8Array(memory(name, length), 0, length),
    float32: (name, length) => new Float32Array(memory(name, 4 * length), 0, length),
    float64: (name, length) => new Float64Array(memory(name, 8 * length), 0, length),
  };
}
