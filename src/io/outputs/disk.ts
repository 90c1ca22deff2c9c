import { TuneError } from "../../errors.ts";
import type { Storage } from "../storage.ts";

/**
 * Refuse what a folder's disk has no room for, before any of it is written.
 * @param bytes that the folder will take at least. What stands there now is replaced at the end alone, so it frees nothing.
 * @throws {TuneError} `write-failed`; nothing where the storage cannot tell how much is free.
 */
export async function checkDisk(storage: Storage, folder: string, bytes: number): Promise<void> {
  const free = await storage.freeBytes?.(folder);
  if (free === undefined || bytes <= free) return;
  throw new TuneError("write-failed", `cannot write ${folder}: it takes ${size(bytes)}, and ${size(free)} are free.`, {
    at: folder,
    fix: "free space on that disk, or choose a folder on another one",
  });
}

function size(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(2)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
