import { TuneError } from "../errors.ts";
import { contentHash } from "./content-hash.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "./json.ts";
import type { Storage } from "./storage.ts";

/*
 * JSON that a later run goes on from, with a checksum of its own: a file that was damaged or edited is refused, not read as
 * something else.
 */

/** The text of an object with its checksum as the last key. */
function sealedText(value: object): string {
  const { checksum: _checksum, ...content } = JSON.parse(JSON.stringify(value)) as Record<string, unknown>; // as it is written
  return `${JSON.stringify({ ...content, checksum: contentHash(JSON.stringify(content)) }, null, 2)}\n`;
}

/** Write an object with its checksum. */
export async function writeSealed(storage: Storage, path: string, value: object): Promise<void> {
  await storage.write(path, sealedText(value));
}

/**
 * Read an object that {@link writeSealed} wrote; undefined when there is no such file.
 * @throws {TuneError} `bad-checkpoint` when it is not as it was written, byte for byte.
 */
export async function readSealed(storage: Storage, path: string): Promise<JsonObject | undefined> {
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  const bytes = await storage.read(path);
  const value = await readJsonObject(storage, path).catch((error: unknown) => {
    if (error instanceof TuneError) return undefined; // damaged: said below
    throw error;
  });
  if (isJsonObject(value) && sameBytes(new TextEncoder().encode(sealedText(value)), bytes)) {
    const { checksum: _checksum, ...content } = value;
    return content;
  }
  throw damaged(path);
}

/** The error for what a run cannot go on from. */
export function damaged(path: string): TuneError {
  return new TuneError("bad-checkpoint", "The file is not as it was written: its checksum differs, or it has none.", {
    at: path,
    fix: "take it from a backup, or start again in another folder (or here, with replace)",
  });
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
