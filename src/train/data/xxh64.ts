/*
 * xxHash, 64 bits, seed 0 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md): what the checksum of a Zstandard frame is made of.
 * A number of 64 bits is two of 32, the low one first, as JavaScript multiplies no larger ones exactly.
 */

/** The primes of the specification, low and high. */
const p1 = [0x85ebca87, 0x9e3779b1] as const;
const p2 = [0x27d4eb4f, 0xc2b2ae3d] as const;
const p3 = [0x9e3779f9, 0x165667b1] as const;
const p4 = [0xc2b2ae63, 0x85ebca77] as const;
const p5 = [0x165667c5, 0x27d4eb2f] as const;

type Prime = readonly [low: number, high: number];

/** A hash of bytes that come in pieces. */
export interface Xxh64 {
  update(bytes: Uint8Array): void;
  /** The low 32 bits, as Zstandard keeps them. */
  low(): number;
  /** 16 hexadecimal digits. */
  hex(): string;
}

/** Start a hash. */
export function createXxh64(): Xxh64 {
  // Four lanes, each low and high: p1 + p2, p2, 0, −p1.
  const lanes = new Int32Array(8);
  const word = new Int32Array(2); // what is worked on
  set(word, p1);
  add(word, p2[0], p2[1]);
  lanes.set(word, 0);
  lanes.set(p2, 2);
  lanes[6] = -p1[0];
  lanes[7] = ~p1[1]; // −p1: its low half is not 0
  const rest = new Uint8Array(32);
  let [held, length] = [0, 0];

  const stripes = (bytes: Uint8Array): void => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at + 32 <= bytes.length; at += 32)
      for (let lane = 0; lane < 4; lane++)
        round(lanes, 2 * lane, view.getInt32(at + 8 * lane, true), view.getInt32(at + 8 * lane + 4, true));
  };

  const digest = (): Prime => {
    const hash = new Int32Array(2);
    if (length >= 32) {
      for (const [lane, bits] of [1, 7, 12, 18].entries()) {
        word.set(lanes.subarray(2 * lane, 2 * lane + 2));
        rotate(word, bits);
        add(hash, word[0] ?? 0, word[1] ?? 0);
      }
      for (let lane = 0; lane < 4; lane++) {
        word.fill(0);
        round(word, 0, lanes[2 * lane] ?? 0, lanes[2 * lane + 1] ?? 0);
        mix(hash, word);
        multiply(hash, p1);
        add(hash, ...p4);
      }
    } else set(hash, p5);
    add(hash, length >>> 0, Math.floor(length / 2 ** 32));
    const view = new DataView(rest.buffer, 0, held);
    let at = 0;
    for (; at + 8 <= held; at += 8) {
      word.fill(0);
      round(word, 0, view.getInt32(at, true), view.getInt32(at + 4, true));
      mix(hash, word);
      rotate(hash, 27);
      multiply(hash, p1);
      add(hash, ...p4);
    }
    if (at + 4 <= held) {
      set(word, [view.getInt32(at, true), 0]);
      multiply(word, p1);
      mix(hash, word);
      rotate(hash, 23);
      multiply(hash, p2);
      add(hash, ...p3);
      at += 4;
    }
    for (; at < held; at++) {
      set(word, [view.getUint8(at), 0]);
      multiply(word, p5);
      mix(hash, word);
      rotate(hash, 11);
      multiply(hash, p1);
    }
    shiftMix(hash, 33);
    multiply(hash, p2);
    shiftMix(hash, 29);
    multiply(hash, p3);
    shiftMix(hash, 32);
    return [(hash[0] ?? 0) >>> 0, (hash[1] ?? 0) >>> 0];
  };

  return {
    update: (bytes) => {
      length += bytes.length;
      let at = 0;
      if (held > 0) {
        at = Math.min(32 - held, bytes.length);
        rest.set(bytes.subarray(0, at), held);
        held += at;
        if (held < 32) return;
        stripes(rest);
      }
      const whole = at + Math.floor((bytes.length - at) / 32) * 32;
      stripes(bytes.subarray(at, whole));
      held = bytes.length - whole;
      rest.set(bytes.subarray(whole));
    },
    low: () => digest()[0],
    hex: () =>
      digest()
        .map((half) => half.toString(16).padStart(8, "0"))
        .reverse()
        .join(""),
  };
}

/** One round of the lane at `i`: rotate(lane + input·p2, 31)·p1. All numbers are of 32 bits, which is what makes it fast. */
function round(lanes: Int32Array, i: number, low: number, high: number): void {
  const before = lanes[i] ?? 0;
  const sum = (before + Math.imul(low, p2[0])) | 0;
  const above =
    (lanes[i + 1] ?? 0) +
    highHalf(low, p2[0]) +
    Math.imul(low, p2[1]) +
    Math.imul(high, p2[0]) +
    (sum >>> 0 < before >>> 0 ? 1 : 0);
  const [turned, turnedAbove] = [(sum << 31) | (above >>> 1), (above << 31) | (sum >>> 1)];
  lanes[i] = Math.imul(turned, p1[0]);
  lanes[i + 1] = highHalf(turned, p1[0]) + Math.imul(turned, p1[1]) + Math.imul(turnedAbove, p1[0]);
}

/** The high 32 bits of a product of 32 bits each, without sign, by pieces of 16. */
function highHalf(a: number, b: number): number {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const [one, other] = [Math.imul(a1, b0), Math.imul(a0, b1)];
  const middle = (Math.imul(a0, b0) >>> 16) + (one & 0xffff) + (other & 0xffff);
  return (Math.imul(a1, b1) + (one >>> 16) + (other >>> 16) + (middle >>> 16)) | 0;
}

function set(value: Int32Array, [low, high]: Prime): void {
  value[0] = low;
  value[1] = high;
}

function add(value: Int32Array, low: number, high: number): void {
  const sum = ((value[0] ?? 0) >>> 0) + (low >>> 0);
  value[1] = (value[1] ?? 0) + high + (sum > 0xffffffff ? 1 : 0);
  value[0] = sum;
}

function mix(value: Int32Array, other: Int32Array): void {
  value[0] = (value[0] ?? 0) ^ (other[0] ?? 0);
  value[1] = (value[1] ?? 0) ^ (other[1] ?? 0);
}

/** The low 64 bits of a product. */
function multiply(value: Int32Array, [low, high]: Prime): void {
  const [a, b] = [value[0] ?? 0, value[1] ?? 0];
  value[0] = Math.imul(a, low);
  value[1] = highHalf(a, low) + Math.imul(a, high) + Math.imul(b, low);
}

/** To the left, by 1 to 31 bits. */
function rotate(value: Int32Array, bits: number): void {
  const [low, high] = [value[0] ?? 0, value[1] ?? 0];
  value[0] = (low << bits) | (high >>> (32 - bits));
  value[1] = (high << bits) | (low >>> (32 - bits));
}

/** Exclusive or with itself, to the right by some bits. */
function shiftMix(value: Int32Array, bits: number): void {
  const [low, high] = [value[0] ?? 0, value[1] ?? 0];
  if (bits >= 32) value[0] = low ^ (high >>> (bits - 32));
  else {
    value[0] = low ^ ((low >>> bits) | (high << (32 - bits)));
    value[1] = high ^ (high >>> bits);
  }
}
