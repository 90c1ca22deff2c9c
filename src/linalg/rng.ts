/**
 * A stream of random numbers that is the same, bit for bit, in every engine: integer arithmetic, exact floating point
 * operations (+ − × ÷ √) and nothing from `Math` whose last bit an engine may choose.
 */
export interface Rng {
  /** The next 32 random bits, as an integer in [0, 2³²). */
  uint32(): number;
  /** A number in [0, 1), a multiple of 2⁻⁵³. */
  uniform(): number;
  /** A number from the standard normal distribution. */
  normal(): number;
  /** An integer in [0, bound), every one equally likely. @throws {RangeError} unless 1 ≤ bound ≤ 2³². */
  integer(bound: number): number;
  /** Put the items in random order, in place, and return them. */
  shuffle<T extends { length: number; [index: number]: unknown }>(items: T): T;
}

/**
 * A random stream that depends on the seed and the names of the stream alone: `createRng(7, "order", epoch)`.
 * Streams with different names are independent, and no stream has to be saved to be resumed.
 * The seed and the names are absorbed by SplitMix64 (Steele et al. 2014), which fills the state of xoshiro128**.
 * @throws {RangeError} when the seed or a numeric name is not a safe integer.
 */
export function createRng(seed: number, ...stream: readonly (number | string)[]): Rng {
  let key = absorb(0n, seed);
  for (const name of stream) key = absorb(key, name);
  const [high, low] = [splitMix64(key), splitMix64(key + goldenGamma)];
  return xoshiro128([Number(high >> 32n), Number(high & mask32), Number(low >> 32n), Number(low & mask32)]);
}

/**
 * xoshiro128** 1.1 from four 32-bit words that are not all zero. Blackman and Vigna 2021,
 * "Scrambled linear pseudorandom number generators".
 */
export function xoshiro128(state: readonly [number, number, number, number]): Rng {
  let [a, b, c, d] = state;

  const uint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return result;
  };

  const uniform = (): number => ((uint32() >>> 5) * 2 ** 26 + (uint32() >>> 6)) * 2 ** -53;

  // Marsaglia's polar method; the second number of each pair is dropped, so that the stream has no hidden half.
  const normal = (): number => {
    for (;;) {
      const x = 2 * uniform() - 1;
      const y = 2 * uniform() - 1;
      const square = x * x + y * y;
      if (square > 0 && square < 1) return x * Math.sqrt((-2 * naturalLog(square)) / square);
    }
  };

  const integer = (bound: number): number => {
    if (!Number.isInteger(bound) || bound < 1 || bound > 2 ** 32) {
      throw new RangeError(`integer(bound) needs 1 ≤ bound ≤ 2³², not ${bound}.`);
    }
    const unbiased = 2 ** 32 - (2 ** 32 % bound); // draws at or above this would favour small results
    for (;;) {
      const draw = uint32();
      if (draw < unbiased) return draw % bound;
    }
  };

  const shuffle = <T extends { length: number; [index: number]: unknown }>(items: T): T => {
    for (let i = items.length - 1; i > 0; i--) {
      const j = integer(i + 1);
      const kept = items[i];
      items[i] = items[j];
      items[j] = kept;
    }
    return items;
  };

  return { uint32, uniform, normal, integer, shuffle };
}

const mask32 = 0xffffffffn;
const goldenGamma = 0x9e3779b97f4a7c15n;

/** The output of SplitMix64 for a state: a bijection of 64-bit numbers that scatters every bit. */
export function splitMix64(state: bigint): bigint {
  let z = BigInt.asUintN(64, state + goldenGamma);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return z ^ (z >> 31n);
}

function absorb(key: bigint, name: number | string): bigint {
  if (typeof name === "number") {
    if (!Number.isSafeInteger(name)) throw new RangeError(`A seed or stream number must be an integer, not ${name}.`);
    return splitMix64(key ^ splitMix64(BigInt.asUintN(64, BigInt(name))));
  }
  let hash = 0xcbf29ce484222325n; // FNV-1a over UTF-16 units
  for (let i = 0; i < name.length; i++) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(name.charCodeAt(i))) * 0x100000001b3n);
  }
  return splitMix64(splitMix64(key ^ hash) + BigInt(name.length) + 1n); // one more round than a number: "1" is not 1
}

function rotateLeft(x: number, count: number): number {
  return (x << count) | (x >>> (32 - count));
}

/** ln x for x in (0, 1), from exact operations only: x = m·2ᵉ with m near 1, ln m = 2·artanh((m − 1)/(m + 1)). */
export function naturalLog(x: number): number {
  let mantissa = x;
  let exponent = 0;
  while (mantissa < Math.SQRT1_2) {
    mantissa *= 2;
    exponent -= 1;
  }
  const t = (mantissa - 1) / (mantissa + 1); // |t| ≤ 0.172, so terms past t²³ are below 2⁻⁵³
  const square = t * t;
  // Horner's rule, written out: a loop would divide at every power.
  let series = (1 / 23) * square + 1 / 21;
  series = series * square + 1 / 19;
  series = series * square + 1 / 17;
  series = series * square + 1 / 15;
  series = series * square + 1 / 13;
  series = series * square + 1 / 11;
  series = series * square + 1 / 9;
  series = series * square + 1 / 7;
  series = series * square + 1 / 5;
  series = series * square + 1 / 3;
  series = series * square + 1;
  return exponent * Math.LN2 + 2 * t * series;
}
