import type { Generator } from "../../privacy/index.ts";

/**
 * The examples of one update, each drawn by itself with the same probability (Poisson sampling): indices in rising order, none
 * at times. Which they are is secret, as the privacy of the noise counts on it: they are drawn under the run's key.
 */
export async function drawPoisson(
  generator: Pick<Generator, "uniforms">,
  { count, rate, step }: { readonly count: number; readonly rate: number; readonly step: number },
): Promise<readonly number[]> {
  const numbers = new Float64Array(count);
  await generator.uniforms(numbers, "sampling", step);
  const drawn: number[] = [];
  numbers.forEach((number, i) => {
    if (number < rate) drawn.push(i);
  });
  return drawn;
}
