import { assert, TuneError } from "../errors.ts";
import { naturalLog } from "../linalg/index.ts";

/** Random numbers that nobody can foretell who lacks the key, and that are the same whenever they are asked for again. */
export interface Generator {
  /**
   * Fill an array with normal numbers, times `scale`: a function of the key, the purpose and the step alone.
   * Each is half the sum of four draws in float64, and the first draw is thrown away, so that the gaps of floating-point numbers
   * do not tell what was added (Holohan and Braghin 2021, arXiv 2107.10138, as Opacus does it).
   */
  normals(into: Float32Array, purpose: string, step: number, scale?: number): Promise<void>;
  /** Fill an array with numbers in [0, 1), multiples of 2⁻⁵³: a function of the key, the purpose and the step alone. */
  uniforms(into: Float64Array, purpose: string, step: number): Promise<void>;
}

const keyBytes = 32;
const blockBytes = 16;

/** A new key, from the platform's cryptographic generator. */
export function newKey(): Uint8Array<ArrayBuffer> {
  return platformCrypto().getRandomValues(new Uint8Array(keyBytes));
}

/**
 * A generator under a secret key of 32 bytes: AES-256 in counter mode, under a key of its own for every purpose and step
 * (HMAC-SHA-256 of both), through the platform's Web Crypto. Normal numbers are made of it with exact operations only, so that
 * every engine gets the same ones.
 * @throws {TuneError} `no-cryptography` where the platform has none (a page that was not loaded over HTTPS or from localhost).
 */
export function openGenerator(key: Uint8Array): Generator {
  assert(key.length === keyBytes, `a key has ${keyBytes} bytes, not ${key.length}`);
  const { subtle } = platformCrypto();
  const secret = new Uint8Array(key); // what the caller does with its own later changes nothing
  let imported: Promise<CryptoKey> | undefined;

  const open = async (kind: string, purpose: string, step: number): Promise<Draw> => {
    assert(Number.isSafeInteger(step) && step >= 0, `a step is an integer that is at least 0, not ${step}`);
    imported ??= subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
    const name = new TextEncoder().encode(JSON.stringify([kind, purpose, step])); // different triples are different texts
    const streamKey = await subtle.sign("HMAC", await imported, name);
    const aes = await subtle.importKey("raw", streamKey, "AES-CTR", false, ["encrypt"]);
    let block = 0;
    return async (count) => {
      const bytes = zeros.subarray(0, count * 8);
      const counter = new Uint8Array(blockBytes);
      new DataView(counter.buffer).setBigUint64(8, BigInt(block));
      block += Math.ceil(bytes.length / blockBytes);
      return new Uint32Array(await subtle.encrypt({ name: "AES-CTR", counter, length: 64 }, aes, bytes));
    };
  };

  return {
    async uniforms(into, purpose, step) {
      const draw = await open("uniforms", purpose, step);
      for (let start = 0; start < into.length; start += chunk) {
        const count = Math.min(chunk, into.length - start);
        const bits = await draw(count);
        for (let i = 0; i < count; i++) into[start + i] = uniform(bits, 2 * i);
      }
    },
    async normals(into, purpose, step, scale = 1) {
      const draw = await open("normals", purpose, step);
      const filling: Filling = { into, scale, filled: 0, pairs: 0, sum: 0 };
      while (filling.filled < into.length) {
        // A pair takes two numbers of the stream, π/4 of the pairs count, and two of them make a value: 5.1 numbers a value.
        fill(filling, await draw(Math.min(chunk, 128 + 6 * (into.length - filling.filled))));
      }
    },
  };
}

/** Normal numbers on their way into an array. */
interface Filling {
  readonly into: Float32Array;
  readonly scale: number;
  /** How many values there are so far. */
  filled: number;
  /** How many points of the unit disc were drawn. */
  pairs: number;
  /** What is drawn so far of the next value. */
  sum: number;
}

/** Go on with what bits give: by Marsaglia's polar form of Box and Muller, a point of the unit disc is two normal numbers. */
function fill(filling: Filling, bits: Uint32Array): void {
  const { into, scale } = filling;
  let { filled, pairs, sum } = filling;
  for (let at = 0; at < bits.length && filled < into.length; at += 4) {
    const x = 2 * uniform(bits, at) - 1;
    const y = 2 * uniform(bits, at + 2) - 1;
    const square = x * x + y * y;
    if (square >= 1 || square === 0) continue;
    const factor = Math.sqrt((-2 * naturalLog(square)) / square);
    // The first number of all is thrown away, so that every sum of four ends with the first one of a pair.
    if ((pairs & 1) === 1) {
      sum = sum + x * factor + y * factor;
    } else {
      if (pairs > 0) {
        into[filled] = (scale * (sum + x * factor)) / 2;
        filled += 1;
      }
      sum = y * factor;
    }
    pairs += 1;
  }
  Object.assign(filling, { filled, pairs, sum });
}

const chunk = 1 << 14; // float64 numbers at a time; even, so that pairs do not straddle
const zeros = new Uint8Array(chunk * 8);

/** A number in [0, 1), a multiple of 2⁻⁵³, from two words of 32 bits. */
function uniform(bits: Uint32Array, at: number): number {
  return (((bits[at] ?? 0) >>> 5) * 2 ** 26 + ((bits[at + 1] ?? 0) >>> 6)) * 2 ** -53;
}

function platformCrypto(): Crypto {
  // Pages have no `subtle` outside secure contexts, whatever the types say.
  const platform: Partial<Crypto> | undefined = globalThis.crypto;
  if (platform?.subtle === undefined) {
    throw new TuneError("no-cryptography", "This platform has no cryptographic random numbers (Web Crypto).", {
      fix: "load the page over HTTPS or from localhost, or use a newer runtime",
    });
  }
  return globalThis.crypto;
}

/** A stream of numbers from AES: so many times 64 bits. */
type Draw = (count: number) => Promise<Uint32Array<ArrayBuffer>>;
