import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createFft } from "./fft.ts";

const numbers = (length: number): fc.Arbitrary<number[]> =>
  fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: length, maxLength: length });
const signal: fc.Arbitrary<[number[], number[]]> = fc
  .integer({ min: 0, max: 7 })
  .chain((log) => fc.tuple(numbers(2 ** log), numbers(2 ** log)));

describe("discrete Fourier transforms", () => {
  it("are the sum that defines them", () => {
    fc.assert(
      fc.property(signal, ([re, im]) => {
        const [real, imaginary] = [Float64Array.from(re), Float64Array.from(im)];
        const size = re.length;
        createFft(size).forward(real, imaginary);
        for (let k = 0; k < size; k++) {
          let [a, b] = [0, 0];
          for (let j = 0; j < size; j++) {
            const angle = (-2 * Math.PI * ((j * k) % size)) / size;
            a += (re[j] ?? 0) * Math.cos(angle) - (im[j] ?? 0) * Math.sin(angle);
            b += (re[j] ?? 0) * Math.sin(angle) + (im[j] ?? 0) * Math.cos(angle);
          }
          expect(Math.abs(a - (real[k] ?? 0)) + Math.abs(b - (imaginary[k] ?? 0))).toBeLessThan(1e-13 * size);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("are undone by their inverse, at sizes in use too", () => {
    const size = 2 ** 17;
    const real = Float64Array.from({ length: size }, (_, i) => Math.sin(i * i));
    const imaginary = Float64Array.from({ length: size }, (_, i) => Math.cos(3 * i));
    const [re, im] = [real.slice(), imaginary.slice()];
    const fft = createFft(size);
    fft.forward(re, im);
    fft.inverse(re, im);
    const worst = re.reduce(
      (most, x, i) => Math.max(most, Math.abs(x - (real[i] ?? 0)), Math.abs((im[i] ?? 0) - (imaginary[i] ?? 0))),
      0,
    );
    expect(worst).toBeLessThan(1e-14);
  });

  it("have sizes that are powers of two", () => {
    for (const size of [0, 3, 12, 1.5]) expect(() => createFft(size)).toThrow(/power of two/);
    expect(() => createFft(4).forward(new Float64Array(2), new Float64Array(4))).toThrow(/size/);
  });
});
