/** Red, green and blue of every pixel, row by row: 3·width·height bytes. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** The longest side of an image and the most pixels that it may have. */
const [longestSide, mostPixels] = [16384, 100e6];

/**
 * Check the size that an image claims, before memory is taken for it.
 * @throws {Error} saying what it claims and what the most is.
 */
export function checkSize(width: number, height: number): void {
  if (width === 0 || height === 0) throw new Error(`it is ${width} by ${height} pixels`);
  if (width > longestSide || height > longestSide || width * height > mostPixels)
    throw new Error(
      `its ${width} by ${height} pixels are too many: a side has at most ${longestSide}, the whole ${mostPixels}`,
    );
}
