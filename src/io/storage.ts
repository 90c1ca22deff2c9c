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
  /** The bytes of a file, or of a range of it; a storage may put them into the memory handed over, and answer with that. */
  read(path: string, range?: ByteRange, into?: ArrayBuffer): Promise<Uint8Array>;
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
  /** Bytes that the disk of a path, which need not be there, can still take; undefined where that cannot be told. */
  freeBytes?(path: string): Promise<number | undefined>;
  /** Write a whole file: under a temporary name, flushed, then renamed, so that no reader ever sees half of it. */
  write(path: string, content: string | Uint8Array | AsyncIterable<Uint8Array>, options?: WriteOptions): Promise<void>;
  /** Add to the end of a file, creating it when missing (logs and metrics, one line a call). */
  append(path: string, content: string | Uint8Array): Promise<void>;
  /**
   * Rename a file or folder. A file takes the place of a file; nothing else at the target is replaced, and an empty folder
   * is as good as none.
   */
  rename(from: string, to: string): Promise<void>;
  /** Remove a file or folder; nothing happens when it is not there. */
  remove(path: string): Promise<void>;
  /** Remove a folder and those inside it, as far as they hold no file. */
  prune(folder: string): Promise<void>;
  /** The one name of a path, which need not be there: absolute, with links followed. */
  resolve(path: string): Promise<string>;
  /**
   * Whether a folder must stay where it is, so that what it holds is replaced file by file: it is the current folder or one
   * that this is in, something is mounted there, or what it is in cannot be written to.
   */
  fixed(folder: string): Promise<boolean>;
  /**
   * Keep others from a file or folder until it is released or this process ends, however it ends. It binds those who ask
   * for the same lock.
   * @throws {TuneError} `in-use` when somebody has it.
   */
  lock(path: string): Promise<Lock>;
  /** What a writer may touch besides its own: `guardOutputs` (io/outputs/guard.ts). */
  readonly guard?: OutputGuard;
}

/** How a file is written. */
export interface WriteOptions {
  /** Nobody but its owner may read it, where a disk knows owners. */
  readonly secret?: boolean;
}

/** What a command or call reads, which nothing may change, and whether what it writes may take the place of others' files. */
export interface OutputGuard {
  readonly inputs: readonly string[];
  readonly replace: boolean;
  /** The storage that is guarded. */
  readonly behind: Storage;
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
