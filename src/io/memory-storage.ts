import { TuneError } from "../errors.ts";
import { type ByteRange, inUse, type Storage } from "./storage.ts";

/**
 * A {@link Storage} that keeps everything in memory: for tests, and for pages that have no folder to write to.
 * `files` are the files it starts with. Bytes are copied in and out, so nobody shares them.
 */
export function memoryStorage(files: Readonly<Record<string, string | Uint8Array>> = {}): Storage {
  const kept = new Map<string, Uint8Array>();
  const locked = new Set<string>();
  for (const [path, content] of Object.entries(files)) kept.set(normal(path), copyOf(content));

  const isFolder = (path: string): boolean => path === "" || [...kept.keys()].some((key) => key.startsWith(`${path}/`));

  const requireWritable = (path: string): void => {
    const parts = path.split("/");
    const parent = parts.slice(0, -1).findIndex((_, i) => kept.has(parts.slice(0, i + 1).join("/")));
    if (parent >= 0) {
      throw new TuneError("write-failed", `cannot write ${path}: ${parts.slice(0, parent + 1).join("/")} is a file.`);
    }
  };

  const requireFile = (path: string): void => {
    requireWritable(path);
    if (isFolder(path)) throw new TuneError("write-failed", `cannot write ${path}: it is a folder.`);
  };

  const at = (path: string): Uint8Array => {
    const bytes = kept.get(path);
    if (bytes !== undefined) return bytes;
    throw new TuneError("file-not-found", isFolder(path) ? `${path} is a folder, not a file.` : `no file ${path}.`);
  };

  return {
    read: async (path: string, range?: ByteRange) => {
      const bytes = at(normal(path));
      if (range === undefined) return bytes.slice();
      if (range.start < 0 || range.end < range.start || range.end > bytes.length) {
        const wanted = `bytes ${range.start} to ${range.end}`;
        throw new TuneError("read-failed", `cannot read ${wanted} of ${path}: it has ${bytes.length}.`);
      }
      return bytes.slice(range.start, range.end);
    },
    stamp: async (path) => stampOf(kept.get(normal(path))),
    sizeBytes: async (path) => kept.get(normal(path))?.length,
    list: async (folder) => {
      const prefix = normal(folder) === "" ? "" : `${normal(folder)}/`;
      const names = new Set<string>();
      for (const path of kept.keys()) {
        if (!path.startsWith(prefix)) continue;
        const [name = "", ...below] = path.slice(prefix.length).split("/");
        names.add(below.length > 0 ? `${name}/` : name);
      }
      return [...names].sort();
    },
    write: async (path, content) => {
      requireFile(normal(path));
      const bytes =
        typeof content === "string" || content instanceof Uint8Array ? copyOf(content) : await collect(content);
      requireFile(normal(path));
      kept.set(normal(path), bytes);
    },
    append: async (path, content) => {
      requireFile(normal(path));
      kept.set(normal(path), join([kept.get(normal(path)) ?? new Uint8Array(), copyOf(content)]));
    },
    rename: async (from, to) => {
      const source = normal(from);
      const target = normal(to);
      const moved = [...kept].filter(([path]) => path === source || path.startsWith(`${source}/`));
      if (moved.length === 0) throw new TuneError("file-not-found", `cannot rename ${from}: there is no such file.`);
      if (source === target) return;
      if (target.startsWith(`${source}/`) || source.startsWith(`${target}/`)) {
        throw new TuneError("write-failed", `cannot rename ${from} to ${to}: one is inside the other.`);
      }
      requireWritable(target);
      if (isFolder(target) || (kept.has(target) && !kept.has(source))) {
        throw new TuneError("write-failed", `cannot rename ${from} to ${to}: something is there already.`);
      }
      for (const [path, bytes] of moved) {
        kept.delete(path);
        kept.set(target + path.slice(source.length), bytes);
      }
    },
    lock: async (path) => {
      const own = normal(path);
      if (locked.has(own)) throw inUse(path, "another run in this process");
      locked.add(own);
      let released = false;
      return {
        release: async () => {
          if (!released) locked.delete(own);
          released = true;
        },
      };
    },
    prune: async () => undefined, // no folder without a file is known here
    resolve: async (path) => normal(path),
    fixed: async (folder) => normal(folder) === "", // everything is in it
    remove: async (path) => {
      const gone = normal(path);
      for (const key of kept.keys()) if (key === gone || key.startsWith(`${gone}/`)) kept.delete(key);
    },
  };
}

/** Every write puts other bytes in the place of those before, which are known by a number. */
function stampOf(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  const known = stamps.get(bytes) ?? String(++stamped);
  stamps.set(bytes, known);
  return known;
}

const stamps = new WeakMap<Uint8Array, string>();
let stamped = 0;

function normal(path: string): string {
  return path
    .split("/")
    .filter((part) => part !== "" && part !== ".")
    .join("/");
}

function copyOf(content: string | Uint8Array): Uint8Array {
  return typeof content === "string" ? new TextEncoder().encode(content) : content.slice();
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  // Copied at once: a producer may reuse its buffer for the next chunk.
  for await (const chunk of chunks) parts.push(chunk.slice());
  return join(parts);
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}
