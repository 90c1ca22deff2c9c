import { rotate } from "./vectors.ts";

/** c·f + s·g = r and c·g − s·f = 0, with c² + s² = 1. */
export function givens(f: number, g: number): readonly [c: number, s: number, r: number] {
  if (g === 0) return [1, 0, f];
  const r = Math.hypot(f, g);
  return [f / r, g / r, r];
}

/**
 * Plane rotations of rows, put off until many can be applied to a few columns at a time, which then stay in the
 * processor's cache.
 */
export interface RotationQueue {
  /** (row i, row j) <- (c·row i + s·row j, c·row j − s·row i). */
  push(i: number, j: number, c: number, s: number): void;
  /** Apply what is queued. */
  flush(): void;
}

/** Rotations of the rows of `data`, each `cols` long. */
export function rotationQueue(data: Float64Array, cols: number): RotationQueue {
  const capacity = 1 << 15;
  const panel = 128; // columns; a row of a panel is 1 KiB
  const pairs = new Int32Array(2 * capacity);
  const turns = new Float64Array(2 * capacity);
  let length = 0;
  const flush = (): void => {
    for (let left = 0; left < cols; left += panel) {
      const width = Math.min(panel, cols - left);
      for (let k = 0; k < length; k++) {
        const i = (pairs[2 * k] ?? 0) * cols + left;
        const j = (pairs[2 * k + 1] ?? 0) * cols + left;
        rotate(data, i, j, turns[2 * k] ?? 1, turns[2 * k + 1] ?? 0, width);
      }
    }
    length = 0;
  };
  return {
    push: (i, j, c, s) => {
      if (s === 0 && c === 1) return;
      pairs[2 * length] = i;
      pairs[2 * length + 1] = j;
      turns[2 * length] = c;
      turns[2 * length + 1] = s;
      length += 1;
      if (length === capacity) flush();
    },
    flush,
  };
}
