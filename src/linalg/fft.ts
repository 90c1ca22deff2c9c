import { assert } from "../errors.ts";

/** Discrete Fourier transforms of one size, in place, on complex numbers whose parts lie in two arrays. */
export interface Fft {
  readonly size: number;
  /** X[k] = Σ x[j]·exp(−2πi·jk/size). */
  forward(real: Float64Array, imaginary: Float64Array): void;
  /** x[j] = Σ X[k]·exp(2πi·jk/size) / size. */
  inverse(real: Float64Array, imaginary: Float64Array): void;
}

/**
 * Plan transforms of a size that is a power of two: Cooley and Tukey's, with roots of unity from a table, so that errors grow with
 * the logarithm of the size alone.
 */
export function createFft(size: number): Fft {
  assert(Number.isInteger(Math.log2(size)) && size >= 1, `a transform's size is a power of two, not ${size}`);
  const [cosines, sines] = [new Float64Array(size >> 1), new Float64Array(size >> 1)];
  for (let i = 0; i < cosines.length; i++) {
    cosines[i] = Math.cos((2 * Math.PI * i) / size);
    sines[i] = Math.sin((2 * Math.PI * i) / size);
  }

  const forward = (real: Float64Array, imaginary: Float64Array): void => {
    assert(real.length === size && imaginary.length === size, "a transform's arrays are of its size");
    reverseBits(real, imaginary);
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let i = 0; i < half; i++) {
          const low = start + i;
          const high = low + half;
          const cosine = cosines[i * stride] as number; // indices stay inside by construction, here and below
          const sine = sines[i * stride] as number;
          const a = real[high] as number;
          const b = imaginary[high] as number;
          const re = a * cosine + b * sine;
          const im = b * cosine - a * sine;
          real[high] = (real[low] as number) - re;
          imaginary[high] = (imaginary[low] as number) - im;
          real[low] = (real[low] as number) + re;
          imaginary[low] = (imaginary[low] as number) + im;
        }
      }
    }
  };

  const inverse = (real: Float64Array, imaginary: Float64Array): void => {
    forward(imaginary, real); // parts swapped before and after: the conjugate's transform
    for (let i = 0; i < size; i++) {
      real[i] = (real[i] as number) / size;
      imaginary[i] = (imaginary[i] as number) / size;
    }
  };

  return { size, forward, inverse };
}

/** Put every element where the reversed bits of its index say. */
function reverseBits(real: Float64Array, imaginary: Float64Array): void {
  for (let i = 0, j = 0; i < real.length; i++) {
    if (i < j) {
      [real[i], real[j]] = [real[j] as number, real[i] as number];
      [imaginary[i], imaginary[j]] = [imaginary[j] as number, imaginary[i] as number];
    }
    let bit = real.length >> 1;
    while (bit >= 1 && j & bit) {
      j ^= bit;
      bit >>= 1;
    }
    j |= bit;
  }
}
