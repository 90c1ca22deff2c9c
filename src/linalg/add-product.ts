/**
 * Add B·A to rows, in place: rows [n, columns], B [n, rank], A [rank, columns]. A plain loop, for ranks that are small: two rows
 * and four ranks at a time, so that what is read is used several times over.
 */
export function addProduct(rows: Float32Array, b: Float32Array, a: Float64Array, rank: number): void {
  if (rank === 0) return;
  const columns = a.length / rank;
  const rowOf = (row: number): Float32Array => rows.subarray(row * columns, (row + 1) * columns);
  const spare = new Float32Array(columns);
  for (let row = 0; row * columns < rows.length; row += 2) {
    const [first, second] = [rowOf(row), (row + 1) * columns < rows.length ? rowOf(row + 1) : spare];
    const at = row * rank;
    for (let k = 0; k < rank; k += 4) {
      const factors = Float64Array.from({ length: 8 }, (_, i) =>
        k + (i % 4) < rank ? (b[at + k + (i % 4) + (i < 4 ? 0 : rank)] ?? 0) : 0,
      );
      addFour(first, second, factors, a, k * columns);
    }
  }
}

/** Four rows of A, from element `from` on, added to two rows; past the end of A they are zero. */
function addFour(
  first: Float32Array,
  second: Float32Array,
  factors: Float64Array,
  a: Float64Array,
  from: number,
): void {
  const width = first.length;
  const rowOf = (k: number): Float64Array =>
    a.subarray(Math.min(from + k * width, a.length - width), Math.min(from + (k + 1) * width, a.length));
  const a0 = rowOf(0);
  const a1 = rowOf(1);
  const a2 = rowOf(2);
  const a3 = rowOf(3);
  const [f0 = 0, f1 = 0, f2 = 0, f3 = 0, g0 = 0, g1 = 0, g2 = 0, g3 = 0] = factors;
  for (let i = 0; i < width; i++) {
    const x0 = a0[i] ?? 0;
    const x1 = a1[i] ?? 0;
    const x2 = a2[i] ?? 0;
    const x3 = a3[i] ?? 0;
    first[i] = (first[i] ?? 0) + (f0 * x0 + f1 * x1 + (f2 * x2 + f3 * x3));
    second[i] = (second[i] ?? 0) + (g0 * x0 + g1 * x1 + (g2 * x2 + g3 * x3));
  }
}
