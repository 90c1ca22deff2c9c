/** The 2^q sums ±α₁ ± … ± α_q in ascending order, and the code of each: bit i of a code is set where αᵢ is added. */
export interface Codebook {
  readonly values: Float64Array;
  readonly codes: Uint8Array;
  /** Halfway between neighbours: a number at a border belongs to the larger value. */
  readonly borders: Float64Array;
}

/** Room for the codebooks of one number of planes, used again and again: a sweep makes one for every column. */
export function createCodebook(bits: number): Codebook {
  const size = 2 ** bits;
  return { values: new Float64Array(size), codes: new Uint8Array(size), borders: new Float64Array(size - 1) };
}

/** Fill a codebook for scales alpha [bits]. */
export function fillCodebook({ values, codes, borders }: Codebook, alpha: ArrayLike<number>): void {
  const size = values.length;
  for (let code = 0; code < size; code++) {
    let value = 0;
    for (let i = 0; i < alpha.length; i++) value += (code >> i) & 1 ? (alpha[i] ?? 0) : -(alpha[i] ?? 0);
    // Insertion: the list is short, and nearly in order when the scales are.
    let at = code;
    while (at > 0 && (values[at - 1] ?? 0) > value) {
      values[at] = values[at - 1] ?? 0;
      codes[at] = codes[at - 1] ?? 0;
      at--;
    }
    values[at] = value;
    codes[at] = code;
  }
  for (let i = 0; i + 1 < size; i++) borders[i] = ((values[i] ?? 0) + (values[i + 1] ?? 0)) / 2;
}

/** Index of the value nearest to w. */
export function nearestIndex({ borders }: Codebook, w: number): number {
  let low = 0;
  let high = borders.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((borders[middle] ?? 0) <= w) low = middle + 1;
    else high = middle;
  }
  return low;
}
