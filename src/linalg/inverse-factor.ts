import { invertUpper, upperFactor } from "./cholesky.ts";
import type { Matrix } from "./matrix.ts";
import type { Multiply } from "./multiply.ts";
import { createRooms, type Rooms } from "./rooms.ts";

/** A part of a square matrix [n, n]: rows and columns from `row` and `col`. */
interface Part {
  readonly row: number;
  readonly col: number;
  readonly rows: number;
  readonly cols: number;
}

/** Blocks of this size are factored here; all that is larger is products. */
const leaf = 64;

/** Strips that triangular operands are cut into are no narrower: what they save is lost to small products. */
const narrowest = 256;

/**
 * Replace a symmetric positive definite A [n, n] (row-major, its upper triangle read) by the upper triangular U with
 * inverse(A) = UᵀU, which is the inverse of R in A = R·Rᵀ. What is below the diagonal is left undefined. By halves, so that
 * all but blocks of 64 is matrix products (Golub and Van Loan, §4.2.9, and the inverse of a triangle by blocks): about n³
 * multiplications and additions in them.
 * @returns whether A is positive definite to working precision; where it is not, its memory holds nothing of use.
 */
export async function invertedUpperFactor(
  a: Float64Array,
  n: number,
  { multiply, rooms = createRooms() }: { readonly multiply: Multiply; readonly rooms?: Rooms },
): Promise<boolean> {
  const diagonal = Float64Array.from({ length: n }, (_, i) => Math.abs(a[i * n + i] ?? 0));
  const products = new Products(a, n, multiply, rooms);
  if (!(await products.invert(0, n))) return false;
  for (let i = 0; i < n; i++) {
    const pivot = (a[i * n + i] ?? 0) ** -2;
    if (!(pivot > 1e-14 * (diagonal[i] ?? 0))) return false;
  }
  return true;
}

class Products {
  readonly #a: Float64Array;
  readonly #n: number;
  readonly #multiply: Multiply;
  readonly #rooms: Rooms;

  constructor(a: Float64Array, n: number, multiply: Multiply, rooms: Rooms) {
    this.#a = a;
    this.#n = n;
    this.#multiply = multiply;
    this.#rooms = rooms;
  }

  /** Invert the factor of the diagonal block of `size` from `start`. */
  async invert(start: number, size: number): Promise<boolean> {
    if (size <= leaf) return this.#invertLeaf(start, size);
    const half = leaf * Math.ceil(size / leaf / 2);
    const [middle, rest] = [start + half, size - half];
    const step = Math.max(narrowest, leaf * Math.ceil(Math.max(half, rest) / leaf / 8));
    const corner = (row: number, rows: number, col: number, cols: number): Part => ({ row, rows, col, cols });
    if (!(await this.invert(middle, rest))) return false;
    // R₁₂ = A₁₂·U₂₂ᵀ. A strip reads what is at or right of it.
    for (const [from, width] of strips(rest, step)) {
      const right = rest - from;
      await this.#set(
        corner(start, half, middle + from, width),
        corner(start, half, middle + from, right),
        corner(middle + from, width, middle + from, right),
        { turned: true, triangle: true },
      );
    }
    // A₁₁ −= R₁₂·R₁₂ᵀ, its upper triangle.
    for (const [from, height] of strips(half, step)) {
      await this.#set(
        corner(start + from, height, start + from, half - from),
        corner(start + from, height, middle, rest),
        corner(start + from, half - from, middle, rest),
        { turned: true, subtract: true },
      );
    }
    if (!(await this.invert(start, half))) return false;
    // R₁₂·U₂₂. A strip reads what is at or left of it.
    for (const [from, width] of strips(rest, step).reverse()) {
      await this.#set(
        corner(start, half, middle + from, width),
        corner(start, half, middle, from + width),
        corner(middle, from + width, middle + from, width),
        { triangle: true },
      );
    }
    // U₁₂ = −U₁₁·(R₁₂·U₂₂). A strip reads what is at or below it.
    for (const [from, height] of strips(half, step)) {
      await this.#set(
        corner(start + from, height, middle, rest),
        corner(start + from, height, start + from, half - from),
        corner(start + from, half - from, middle, rest),
        { negative: true, leftTriangle: true },
      );
    }
    return true;
  }

  #invertLeaf(start: number, size: number): boolean {
    const [a, n] = [this.#a, this.#n];
    const block = new Float64Array(size * size);
    for (let i = 0; i < size; i++) {
      const from = (start + i) * n + start;
      block.set(a.subarray(from, from + size), i * size);
    }
    const factor = upperFactor(block, size);
    if (!factor) return false;
    const inverse = invertUpper(factor, size);
    for (let i = 0; i < size; i++) a.set(inverse.subarray(i * size, (i + 1) * size), (start + i) * n + start);
    return true;
  }

  /**
   * target = left·right, or left·rightᵀ (`turned`); added up to −that or with what is there (`negative`, `subtract`).
   * What an upper triangular operand has below its diagonal counts as 0 (`triangle` for the right one).
   */
  async #set(
    target: Part,
    left: Part,
    right: Part,
    how: {
      readonly turned?: boolean;
      readonly triangle?: boolean;
      readonly leftTriangle?: boolean;
      readonly negative?: boolean;
      readonly subtract?: boolean;
    },
  ): Promise<void> {
    const [a, n] = [this.#a, this.#n];
    const roomOf = (name: string, { rows: height, cols: width }: Part): Float64Array =>
      this.#rooms.float64(name, height * width);
    const A = pack(a, n, left, roomOf("left operand", left), how.leftTriangle === true);
    // Both operands with the inner size along their rows: that is the fastest order for ONNX Runtime's float64 kernel.
    const B = how.turned
      ? pack(a, n, right, roomOf("right operand", right), how.triangle === true)
      : packTurned(a, n, right, roomOf("right operand", right), how.triangle === true);
    const { data } = await this.#multiply(A, B, { transB: true });
    const { rows, cols } = target;
    for (let i = 0; i < rows; i++) {
      const to = (target.row + i) * n + target.col;
      const from = i * cols;
      if (how.subtract) for (let j = 0; j < cols; j++) a[to + j] = (a[to + j] ?? 0) - (data[from + j] ?? 0);
      else if (how.negative) for (let j = 0; j < cols; j++) a[to + j] = -(data[from + j] ?? 0);
      else a.set(data.subarray(from, from + cols), to);
    }
  }
}

/** [from, width] of strips that fill `size`. */
function strips(size: number, step: number): (readonly [from: number, width: number])[] {
  const count = Math.ceil(size / step);
  return Array.from({ length: count }, (_, i) => [i * step, Math.min(step, size - i * step)]);
}

/** A part, its rows end to end; where it is the top of an upper triangle, what is below the diagonal is 0. */
function pack(a: Float64Array, n: number, part: Part, room: Float64Array, triangle: boolean): Matrix<Float64Array> {
  const { row, col, rows, cols } = part;
  for (let i = 0; i < rows; i++) {
    const from = (row + i) * n + col;
    room.set(a.subarray(from, from + cols), i * cols);
    if (triangle) room.fill(0, i * cols, i * cols + Math.min(cols, Math.max(0, row + i - col)));
  }
  return { rows, cols, data: room.subarray(0, rows * cols) };
}

/** The transpose of a part, likewise. */
function packTurned(
  a: Float64Array,
  n: number,
  part: Part,
  room: Float64Array,
  triangle: boolean,
): Matrix<Float64Array> {
  const { row, col, rows, cols } = part;
  const tile = 32;
  for (let top = 0; top < rows; top += tile) {
    const bottom = Math.min(rows, top + tile);
    for (let left = 0; left < cols; left += tile) {
      const right = Math.min(cols, left + tile);
      for (let i = top; i < bottom; i++) {
        const from = (row + i) * n + col;
        const diagonal = triangle ? row + i - col : 0;
        for (let j = left; j < right; j++) room[j * rows + i] = j < diagonal ? 0 : (a[from + j] ?? 0);
      }
    }
  }
  return { rows: cols, cols: rows, data: room.subarray(0, rows * cols) };
}
