import {
  access,
  appendFile,
  constants,
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  statfs,
} from "node:fs/promises";
import { resolve as absolute, basename, dirname, isAbsolute, join, sep } from "node:path";
import { TuneError } from "../errors.ts";
import type { ByteRange, Storage } from "../io/storage.ts";
import { lockFile, partialName } from "./node-lock.ts";

/** libuv reads and writes at most 2 GiB at once. */
const maxChunkBytes = 2 ** 30;

/**
 * {@link Storage} on a disk, through `node:fs`. Relative paths start at the current directory.
 * A write goes to a temporary name in the same folder, is flushed to the disk, then takes the final name. What a link
 * points to is written, not the link.
 */
export const nodeStorage: Storage = {
  read: async (path, range, into) => {
    const handle = await reading(path, open(path, "r"));
    try {
      const info = await reading(path, handle.stat());
      if (info.isDirectory()) throw new TuneError("file-not-found", `${path} is a folder, not a file.`);
      return await reading(path, readRange(handle, path, range ?? { start: 0, end: info.size }, info.size, into));
    } finally {
      await handle.close();
    }
  },
  sizeBytes: async (path) => {
    const info = await reading(path, orNothing(stat(path)));
    return info?.isFile() ? info.size : undefined;
  },
  stamp: async (path) => {
    const info = await reading(path, orNothing(stat(path, { bigint: true })));
    return info?.isFile() ? `${info.ino} ${info.size} ${info.mtimeNs}` : undefined;
  },
  diskPath: (path) => reading(path, orNothing(realpath(path))),
  freeBytes: (path) => freeBytes(absolute(path)),
  list: async (folder) => {
    const entries = (await reading(folder, orNothing(readdir(folder, { withFileTypes: true })))) ?? [];
    const names = entries.map(async (entry) => {
      // Hub caches are made of symbolic links; what counts is what they point to.
      const info = entry.isSymbolicLink() ? await orNothing(stat(join(folder, entry.name))) : entry;
      return info?.isDirectory() ? `${entry.name}/` : entry.name;
    });
    return (await reading(folder, Promise.all(names))).sort();
  },
  write: async (path, content, { secret = false } = {}) => {
    const target = await writing(path, resolved(path));
    const folder = dirname(target);
    await writing(path, makeFolder(folder));
    const temporary = partialName(target);
    const handle = await writing(path, open(temporary, "wx", secret ? 0o600 : 0o666));
    try {
      try {
        for await (const chunk of chunksOf(content)) await writing(path, writeAll(handle, chunk));
        await writing(path, handle.sync());
      } finally {
        await handle.close();
      }
      await writing(path, rename(temporary, target));
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    await flushFolder(folder);
  },
  append: async (path, content) => {
    await writing(path, makeFolder(dirname(path)));
    await writing(path, appendFile(path, content));
  },
  rename: async (from, to) => {
    if ((await writing(from, orNothing(stat(from)))) === undefined) {
      throw new TuneError("file-not-found", `cannot rename ${from}: there is no such file.`);
    }
    await writing(to, makeFolder(dirname(to)));
    await writing(to, moveTo(from, to));
    await flushFolder(dirname(to));
  },
  lock: async (path) => {
    await writing(path, makeFolder(dirname(path)));
    return writing(path, lockFile(path));
  },
  prune: (folder) => writing(folder, prune(folder)),
  resolve: (path) => reading(path, resolved(path)),
  fixed: (folder) => reading(folder, isFixed(folder)),
  remove: async (path) => {
    await writing(path, orNothing(rm(path, { recursive: true, force: true })));
  },
};

/** What the disk of a path, or of the nearest folder around it that is there, can still take. */
async function freeBytes(path: string): Promise<number | undefined> {
  const disk = await statfs(path).catch(() => undefined); // not every disk tells
  if (disk) return disk.bavail * disk.bsize;
  return dirname(path) === path ? undefined : freeBytes(dirname(path));
}

/** A folder takes no file's place anywhere; Windows refuses it an empty folder's too, which is removed there. */
async function moveTo(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    if (process.platform !== "win32") throw error;
    await rmdir(to);
    await rename(from, to);
  }
}

/** The absolute path with links followed, of what need not be there. */
async function resolved(given: string, links = 0): Promise<string> {
  const path = absolute(given);
  const whole = await orNothing(realpath(path));
  if (whole !== undefined) return whole;
  const link = await readlink(path).catch(notALink);
  const parent = dirname(path) === path ? path : await resolved(dirname(path));
  if (link === undefined) return join(parent, basename(path));
  if (links > 40) throw new TuneError("write-failed", `cannot write ${given}: its links lead in a circle.`);
  return resolved(isAbsolute(link) ? link : join(parent, link), links + 1);
}

function notALink(error: unknown): undefined {
  if (codeOf(error) === "EINVAL" || codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
  throw error;
}

/** Whether a folder that is there can not be moved. */
async function isFixed(folder: string): Promise<boolean> {
  const path = await resolved(folder);
  const info = await orNothing(stat(path));
  if (!info?.isDirectory()) return false;
  const current = await resolved(process.cwd());
  if (current === path || current.startsWith(path.endsWith(sep) ? path : path + sep)) return true;
  const parent = dirname(path);
  if (parent === path || (await stat(parent)).dev !== info.dev) return true;
  try {
    await access(parent, constants.W_OK);
  } catch {
    return true;
  }
  return (await mountPoints()).has(path);
}

/** Where something is mounted, as far as the system tells: a folder of the same disk may be. */
async function mountPoints(): Promise<ReadonlySet<string>> {
  const text = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  const places = text.split("\n").map((line) => line.split(" ")[4] ?? "");
  const octal = (place: string): string =>
    place.replace(/\\(\d{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
  return new Set(places.map(octal));
}

/** Remove folders that hold nothing but such folders. */
async function prune(folder: string): Promise<void> {
  const entries = (await orNothing(readdir(folder, { withFileTypes: true }))) ?? [];
  for (const entry of entries) if (entry.isDirectory()) await prune(join(folder, entry.name));
  try {
    await rmdir(folder);
  } catch (error) {
    if (!["ENOTEMPTY", "EEXIST", "ENOENT", "ENOTDIR", "EBUSY", "EINVAL", "EPERM"].includes(codeOf(error) ?? ""))
      throw error;
  }
}

async function readRange(
  handle: FileHandle,
  path: string,
  range: ByteRange,
  sizeBytes: number,
  into: ArrayBuffer | undefined,
): Promise<Uint8Array> {
  const { start, end } = range;
  if (start < 0 || end < start || end > sizeBytes) {
    throw new TuneError("read-failed", `cannot read bytes ${start} to ${end} of ${path}: it has ${sizeBytes}.`);
  }
  const bytes =
    into && into.byteLength >= end - start ? new Uint8Array(into, 0, end - start) : new Uint8Array(end - start);
  let done = 0;
  while (done < bytes.length) {
    const wanted = Math.min(bytes.length - done, maxChunkBytes);
    const { bytesRead } = await handle.read(bytes, done, wanted, start + done);
    if (bytesRead === 0) throw new TuneError("read-failed", `${path} became shorter while it was being read.`);
    done += bytesRead;
  }
  return bytes;
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.length - done, maxChunkBytes));
    done += bytesWritten;
  }
}

async function* chunksOf(content: string | Uint8Array | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (typeof content === "string") yield new TextEncoder().encode(content);
  else if (content instanceof Uint8Array) yield content;
  else yield* content;
}

/** Make a rename last through a power cut. Some systems cannot flush a folder; the rename itself is done. */
async function flushFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
  }
}

/** Make a folder and those that it is in. */
async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    // Node 20 to 24 say so of a disk that is read-only: making the first folder that is missing says why.
    let missing = path;
    while ((await orNothing(stat(dirname(missing)))) === undefined) missing = dirname(missing);
    await mkdir(missing);
    await mkdir(path, { recursive: true });
  }
}

/** Undefined instead of an error when the path, or a folder on the way to it, does not exist. */
async function orNothing<T>(promise: Promise<T>): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
    throw error;
  }
}

async function reading<T>(path: string, promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    if (error instanceof TuneError) throw error;
    const code = codeOf(error);
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new TuneError("file-not-found", `no file ${path}.`, { fix: "check the path", cause: error });
    }
    throw new TuneError("read-failed", `cannot read ${path}: ${reasonOf(error)}.`, { ...fixFor(code), cause: error });
  }
}

async function writing<T>(path: string, promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw writeError(path, error);
  }
}

/** The error of a path that cannot be written, for what the system answered. */
export function writeError(path: string, error: unknown): unknown {
  if (error instanceof TuneError) return error;
  const what = `cannot write ${path}: ${reasonOf(error)}.`;
  return new TuneError("write-failed", what, { ...fixFor(codeOf(error)), cause: error });
}

const fixes: Readonly<Record<string, string>> = {
  ENOSPC: "free space on that disk, or choose a folder on another one",
  EDQUOT: "free some of your disk quota, or choose a folder on another disk",
  EACCES: "give yourself permission to that path, or choose another folder",
  EPERM: "give yourself permission to that path, or choose another folder",
  EROFS: "that disk is read-only: choose a folder on another one",
  EMFILE: "close other programs, or raise the limit of open files (ulimit -n)",
};

function fixFor(code: string | undefined): { fix?: string } {
  const fix = fixes[code ?? ""];
  return fix === undefined ? {} : { fix };
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
