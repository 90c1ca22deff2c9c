import { assert } from "../../errors.ts";

/**
 * Scales that are sums of up to three signed powers of two, in 16 bits: s·(2^P ± 2^(P−g₂) ± 2^(P−g₂−g₃)).
 *
 * | bits | meaning |
 * | --- | --- |
 * | 15 | sign of the whole scale |
 * | 14–8 | e: 0 means that the scale is 0, otherwise P = e − 64 |
 * | 7, 6–4 | sign of the second term against the first, and g₂; g₂ = 0: no second term |
 * | 3, 2–0 | sign of the third term against the first, and g₃; g₃ = 0: no third term |
 *
 * Every such number is a float32 exactly.
 */
export type PowerCode = number;

/** The most terms that a code holds. */
export const maxTerms = 3;

const lowest = -63;
const highest = 63;
const largestGap = 7;

const float = new Float64Array(1);
const words = new Uint32Array(float.buffer); // little-endian, as every engine that ONNX Runtime runs in

/**
 * The exponent of the power of two nearest to |value| in the logarithm: it changes at √2·2^P. value ≠ 0, finite,
 * normal.
 */
export function nearestExponent(value: number): number {
  float[0] = value;
  const high = words[1] ?? 0;
  const exponent = ((high >>> 20) & 0x7ff) - 1023;
  words[1] = (high & 0x000fffff) | 0x3ff00000; // the mantissa in [1, 2), positive
  return (float[0] ?? 1) >= Math.SQRT2 ? exponent + 1 : exponent;
}

/**
 * Round a scale to `terms` powers of two, each the nearest to what the earlier ones left (You et al. 2024,
 * arXiv 2406.05981, §4.1: additive powers of two). Scales below 2^−63.5 become 0; terms beyond a gap of 7 are dropped
 * with those that follow.
 */
export function encodePowers(value: number, terms: number): PowerCode {
  assert(Number.isInteger(terms) && terms >= 1 && terms <= maxTerms, "a scale has one to three terms");
  assert(Number.isFinite(value) && Math.abs(value) <= 2 ** highest, () => `the scale ${value} cannot be stored`);
  if (Math.abs(value) < 2 ** (lowest - 1)) return 0;
  const sign = value < 0 ? -1 : 1;
  let exponent = nearestExponent(value);
  if (exponent < lowest) return 0;
  let code = ((sign < 0 ? 1 : 0) << 15) | ((exponent + 64) << 8);
  let rest = Math.abs(value) - 2 ** exponent;
  for (let term = 1; term < terms && rest !== 0; term++) {
    if (Math.abs(rest) < 2 ** -1000) break;
    const next = nearestExponent(rest);
    const gap = exponent - next;
    if (gap > largestGap) break;
    code |= ((rest < 0 ? 8 : 0) | gap) << (term === 1 ? 4 : 0);
    rest -= Math.sign(rest) * 2 ** next;
    exponent = next;
  }
  return code;
}

/** The scale that a code stands for. */
export function decodePowers(code: PowerCode): number {
  const biased = (code >>> 8) & 0x7f;
  if (biased === 0) return 0;
  const power = 2 ** (biased - 64);
  const [second, third] = [(code >>> 4) & 7, code & 7];
  let value = power;
  if (second > 0) {
    value += (code & 0x80 ? -1 : 1) * power * 2 ** -second;
    if (third > 0) value += (code & 8 ? -1 : 1) * power * 2 ** -(second + third);
  }
  return code & 0x8000 ? -value : value;
}

/** Round to what {@link encodePowers} can store. */
export function roundToPowers(value: number, terms: number): number {
  return decodePowers(encodePowers(value, terms));
}

/** How many terms a code has. */
export function termsOf(code: PowerCode): number {
  if (((code >>> 8) & 0x7f) === 0) return 0;
  return ((code >>> 4) & 7) === 0 ? 1 : (code & 7) === 0 ? 2 : 3;
}
