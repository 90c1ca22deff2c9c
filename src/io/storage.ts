import { TuneError } from "../errors.ts";

/** A range of bytes, `start` included and `end` not. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * Files, wherever the environment keeps them: a disk in Node, memory or the origin-private file system in a page.
 * Paths are joined with `/`. Every method rejects with {@link TuneError} `file-not-found`, `read-failed` or
 * `write-failed`, naming the path.
 */
export interface Storage {
  /** The bytes of a file, or of a range of it. */
  read(path: string, range?: ByteRange): Promise<Uint8Array>;
  /** Size in bytes; undefined when there is no such file. */
  sizeBytes(path: string): Promise<number | undefined>;
  /** Names directly inside a folder, folders ending in `/`; empty when there is no such folder. */
  list(folder: string): Promise<readonly string[]>;
  /** Something that is another once the file has changed; undefined when there is no such file. */
  stamp(path: string): Promise<string | undefined>;
  /**
   * Where a file is on this machine's disk: an absolute path, symbolic links resolved, for libraries that open files
   * themselves. Undefined when it is not on a disk; a storage without disks has no such method.
   */
  diskPath?(path: string): Promise<string | undefined>;
  /** Write a whole file: under a temporary name, flushed, then renamed, so that no reader ever sees half of it. */
  write(path: string, content: string | Uint8Array | AsyncIterable<Uint8Array>): Promise<void>;
  /** Add to the end of a file, creating it when missing (logs and metrics, one line a call). */
  append(path: string, content: string | Uint8Array): Promise<void>;
  /** Rename a file or folder, replacing what is at the target. */
  rename(from: string, to: string): Promise<void>;
  /** Remove a file or folder; nothing happens when it is not there. */
  remove(path: string): Promise<void>;
  /**
   * Keep others from a file or folder until it is released or this process ends, however it ends. It binds those who ask
   * for the same lock.
   * @throws {TuneError} `in-use` when somebody has it.
   */
  lock(path: string): Promise<Lock>;
}

/** What {@link Storage.lock} gives. */
export interface Lock {
  release(): Promise<void>;
}

/** The error for what somebody else has locked. */
export function inUse(path: string, by: string, fix = "wait until it has ended, or choose another folder"): TuneError {
  return new TuneError("in-use", `${path} is in use by ${by}.`, { at: path, fix });
}

/** Join path parts with single slashes. */
export function joinPath(...parts: readonly string[]): string {
  return parts
    .filter((part) => part !== "")
    .join("/")
    .replace(/\/{2,}/g, "/");
}

/** The folder that a file is in; "" when the path names no folder. */
export function dirname(path: string): string {
  return /^(.*)[\\/]/.exec(path)?.[1] ?? "";
}

/**
 * Resolve a path that a file names inside its own folder.
 * @throws {TuneError} `path-outside-folder` when it is absolute or climbs out.
 */
export function insideFolder(folder: string, relative: string): string {
  const parts = relative.split(/[\\/]/);
  if (relative === "" || relative.includes("\0") || /^([a-zA-Z]:|[\\/])/.test(relative) || parts.includes("..")) {
    throw new TuneError("path-outside-folder", `"${relative}" points outside ${folder}.`, {
      at: folder,
      fix: "only use files whose references stay inside their own folder",
    });
  }
  return joinPath(folder, ...parts.filter((part) => part !== "."));
}

/**
 * Write a folder that is never half there: `fill` writes into a staging folder, which then takes the final name.
 * What was at `folder` before is replaced whole.
 * @throws {TuneError} `in-use` when another process writes the same folder, and what the storage throws.
 */
export async function writeFolder(
  storage: Storage,
  folder: string,
  fill: (staging: string) => Promise<void>,
): Promise<void> {
  const target = folder.replace(/\/+$/, "");
  const staging = `${target}.partial`;
  const lock = await storage.lock(target);
  try {
    await storage.remove(staging);
    await fill(staging);
    await storage.rename(staging, target);
  } catch (error) {
    await storage.remove(staging).catch(() => undefined); // the first error says more than one about clearing up
    throw error;
  } finally {
    await lock.release();
  }
}
