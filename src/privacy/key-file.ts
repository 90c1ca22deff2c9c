import { TuneError } from "../errors.ts";
import { contentHash } from "../io/content-hash.ts";
import type { Storage } from "../io/storage.ts";
import { newKey } from "./generator.ts";

const keyBytes = 32;

/** A secret key as its file holds it: the key, and a checksum of it, so that a damaged one is not taken for another. */
export function keyFileContent(key: Uint8Array): Uint8Array {
  const checksum = new TextEncoder().encode(contentHash(key));
  const content = new Uint8Array(keyBytes + checksum.length);
  content.set(key);
  content.set(checksum, keyBytes);
  return content;
}

/**
 * The secret that noise is drawn with: that of a file, where what it is for has begun, else a new one, in a file that nobody else
 * may read. Other noise for steps that were made before would spend more than was written down.
 * @param whose what the secret is of, for the message: `this run`.
 * @throws {TuneError} `no-privacy-key` where it is gone, or not as it was written.
 */
export async function keyIn(
  storage: Storage,
  path: string,
  { begun, whose }: { readonly begun: boolean; readonly whose: string },
): Promise<Uint8Array> {
  if (!begun) {
    const key = newKey();
    await storage.write(path, keyFileContent(key), { secret: true });
    return key;
  }
  const there = (await storage.sizeBytes(path)) !== undefined;
  const content = there ? await storage.read(path) : new Uint8Array();
  const key = content.slice(0, keyBytes);
  const whole = keyFileContent(key);
  if (content.length === whole.length && content.every((byte, i) => byte === whole[i])) return key;
  throw new TuneError(
    "no-privacy-key",
    `The secret that ${whose}'s noise is drawn with is ${there ? "damaged" : "gone"}.`,
    {
      at: path,
      fix: "put the file back from a backup, or start anew in another folder, which spends anew",
    },
  );
}
