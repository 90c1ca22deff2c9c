import { type Matrix, scaledToUnit, transposed, zeroMatrix } from "./matrix.ts";
import { dot, rotate } from "./vectors.ts";

/** A = scaledU·Vt with scaledU = U·diag(S): S from the largest down, Vt fully orthogonal whatever the rank. */
export interface JacobiSvd {
  /** [rows, cols]: columns are orthogonal, and their lengths are S. */
  readonly scaledU: Matrix<Float64Array>;
  readonly S: Float64Array;
  readonly Vt: Matrix<Float64Array>;
}

/**
 * The singular value decomposition of a small matrix with as many rows as columns, or more, by one-sided Jacobi rotations
 * (Golub and Van Loan, §8.6.3). V is orthogonal even where the matrix is zero; singular values below cols·2⁻⁵² of the matrix's
 * length are rounding. Only + − × ÷ √ are used, so that every engine gives the same bits.
 * @throws {RangeError} when the matrix is wider than tall, or holds NaN or infinity.
 */
export function jacobiSvd(matrix: Matrix): JacobiSvd {
  const { rows, cols } = matrix;
  if (rows < cols) throw new RangeError(`[${rows}, ${cols}] is wider than tall.`);
  const { scaled, unit } = scaledToUnit(matrix);
  // Columns are rows here, so that they are contiguous.
  const columns = transposed(scaled).data;
  const turns = zeroMatrix(cols, cols).data;
  for (let i = 0; i < cols; i++) turns[i * cols + i] = 1;
  // Columns as short as rounding errors of the others never settle, and mean nothing.
  const rounding = (cols * Number.EPSILON) ** 2 * dot(columns, 0, columns, 0, columns.length);
  for (let sweep = 0, turned = true; turned; sweep++) {
    if (sweep > 60) throw new RangeError("Singular values do not converge.");
    turned = false;
    for (let p = 0; p < cols - 1; p++) {
      for (let q = p + 1; q < cols; q++) {
        const alpha = dot(columns, p * rows, columns, p * rows, rows);
        const beta = dot(columns, q * rows, columns, q * rows, rows);
        if (Math.min(alpha, beta) <= rounding) continue;
        const gamma = dot(columns, p * rows, columns, q * rows, rows);
        // A product of `rows` terms is no more exact than that: a stricter test may never be met.
        if (Math.abs(gamma) <= rows * Number.EPSILON * Math.sqrt(alpha) * Math.sqrt(beta)) continue;
        turned = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        rotate(columns, p * rows, q * rows, c, -c * t, rows);
        rotate(turns, p * cols, q * cols, c, -c * t, cols);
      }
    }
  }
  const lengths = Float64Array.from({ length: cols }, (_, i) =>
    Math.sqrt(dot(columns, i * rows, columns, i * rows, rows)),
  );
  const order = Array.from(lengths.keys()).sort((a, b) => (lengths[b] ?? 0) - (lengths[a] ?? 0) || a - b);
  const scaledU = zeroMatrix(rows, cols);
  const Vt = zeroMatrix(cols, cols);
  for (const [to, from] of order.entries()) {
    for (let i = 0; i < rows; i++) scaledU.data[i * cols + to] = unit * (columns[from * rows + i] ?? 0);
    Vt.data.set(turns.subarray(from * cols, (from + 1) * cols), to * cols);
  }
  return { scaledU, S: Float64Array.from(order, (i) => unit * (lengths[i] ?? 0)), Vt };
}
