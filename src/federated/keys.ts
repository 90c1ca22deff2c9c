import { TuneError } from "../errors.ts";
import { hashOf } from "./digest.ts";

/** A pair of keys of Ed25519, in base64url. */
export interface SigningKey {
  readonly publicKey: string;
  /** A secret: PKCS #8. */
  readonly privateKey: string;
}

/** Make a pair of keys. @throws {TuneError} `no-cryptography` where the platform has no Ed25519. */
export async function newSigningKey(): Promise<SigningKey> {
  const pair = (await ed25519((subtle) => subtle.generateKey("Ed25519", true, ["sign", "verify"]))) as CryptoKeyPair; // of a pair's name
  const exported = async (format: "raw" | "pkcs8", key: CryptoKey): Promise<string> =>
    textOf(new Uint8Array(await ed25519((subtle) => subtle.exportKey(format, key))));
  return { publicKey: await exported("raw", pair.publicKey), privateKey: await exported("pkcs8", pair.privateKey) };
}

/** Sign a value as JSON, keys in order. */
export async function sign({ privateKey }: SigningKey, value: unknown): Promise<string> {
  const key = await ed25519((subtle) => subtle.importKey("pkcs8", bytesOf(privateKey), "Ed25519", false, ["sign"]));
  const digest = new TextEncoder().encode(await hashOf(value));
  return textOf(new Uint8Array(await ed25519((subtle) => subtle.sign("Ed25519", key, digest))));
}

/** Whether a value was signed by the one who has the private half of a key; what is no key or no signature was not. */
export async function isSignedBy(publicKey: string, value: unknown, signature: unknown): Promise<boolean> {
  if (typeof signature !== "string") return false;
  const digest = new TextEncoder().encode(await hashOf(value));
  try {
    const { subtle } = globalThis.crypto;
    const key = await subtle.importKey("raw", bytesOf(publicKey), "Ed25519", false, ["verify"]);
    return await subtle.verify("Ed25519", key, bytesOf(signature), digest);
  } catch {
    return false;
  }
}

async function ed25519<T>(work: (subtle: SubtleCrypto) => Promise<T>): Promise<T> {
  try {
    return await work(globalThis.crypto.subtle);
  } catch (cause) {
    throw new TuneError("no-cryptography", "This platform cannot sign with Ed25519, or the key is none.", {
      fix: "use Node 20, Chrome 137, Firefox 130 or Safari 17 or newer, in a page from HTTPS or localhost",
      cause,
    });
  }
}

function textOf(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}

function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}
