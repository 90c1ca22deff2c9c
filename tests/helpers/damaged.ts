import type { Rng } from "../../src/linalg/index.ts";

/** Bytes with one to four wounds: flipped, overwritten, cut out, doubled, or a number made large. */
export function damaged(bytes: Uint8Array, rng: Rng): Uint8Array {
  let wounded = bytes.slice();
  // Headers and structure matter more than the numbers behind them.
  const place = (): number => rng.integer(rng.integer(2) === 0 ? Math.min(wounded.length, 512) : wounded.length);
  for (let wounds = 1 + rng.integer(4); wounds > 0 && wounded.length > 0; wounds--) {
    const [at, length] = [place(), 1 + rng.integer(16)];
    const kind = rng.integer(6);
    if (kind === 0) wounded[at] = (wounded[at] ?? 0) ^ (1 << rng.integer(8));
    else if (kind === 1) wounded.fill(rng.integer(256), at, at + length);
    else if (kind === 2) wounded = new Uint8Array([...wounded.subarray(0, at), ...wounded.subarray(at + length)]);
    else if (kind === 3) wounded = new Uint8Array([...wounded.subarray(0, at + length), ...wounded.subarray(at)]);
    else if (kind === 4) wounded = wounded.slice(0, at);
    else {
      const digit = wounded.findIndex((byte, i) => i >= at && byte >= 48 && byte <= 57);
      const large = new TextEncoder().encode(
        ["99999999999", "-1", "1e999", "0.5", "null", '"x"', "[]"][rng.integer(7)] ?? "0",
      );
      if (digit >= 0)
        wounded = new Uint8Array([...wounded.subarray(0, digit), ...large, ...wounded.subarray(digit + 1)]);
    }
  }
  return wounded;
}
