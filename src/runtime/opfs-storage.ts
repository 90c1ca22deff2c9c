import { TuneError } from "../errors.ts";
import { inUse, joinPath, type Storage } from "../io/storage.ts";

/** What browsers have and the DOM types do not: a file takes another's place, as a whole. */
interface Movable {
  move(folder: FileSystemDirectoryHandle, name: string): Promise<void>;
}

/**
 * A {@link Storage} over the origin-private file system: files of a page that are there when it is opened again, and that other
 * sites cannot see. Pages of one origin share it, and its locks. A browser may clear it when its disk is full, unless the page has
 * been granted `navigator.storage.persist()`.
 * @param root the folder of the file system that it keeps to.
 */
export function opfsStorage(root = "scion"): Storage {
  const changes = new Map<string, number>(); // files' times are in milliseconds, in which two writes may fall
  const partsOf = (path: string): readonly string[] =>
    joinPath(root, path)
      .split("/")
      .filter((part) => part !== "" && part !== ".");
  const nameOf = (path: string): string => partsOf(path).at(-1) ?? "";
  const lockName = (what: string, path: string): string => `scion ${what} ${partsOf(path).join("/")}`;

  /** The folder of these parts; undefined where there is none, or a file is in its place. */
  const folderOf = async (parts: readonly string[], create = false): Promise<FileSystemDirectoryHandle | undefined> => {
    let folder = await navigator.storage.getDirectory();
    for (const part of parts) {
      const next = await orNothing(folder.getDirectoryHandle(part, { create }), create ? [] : missing);
      if (next === undefined) return undefined;
      folder = next;
    }
    return folder;
  };
  const fileOf = async (path: string): Promise<FileSystemFileHandle | undefined> => {
    const folder = await folderOf(partsOf(path).slice(0, -1));
    return folder && orNothing(folder.getFileHandle(nameOf(path)), missing);
  };
  const isFolder = async (path: string): Promise<boolean> => (await folderOf(partsOf(path))) !== undefined;
  const parentFor = async (path: string): Promise<FileSystemDirectoryHandle> => {
    const parent = await writing(path, folderOf(partsOf(path).slice(0, -1), true));
    if (parent && !(await isFolder(path))) return parent;
    throw new TuneError("write-failed", `cannot write ${path}: it is a folder.`);
  };
  const namesIn = async (folder: FileSystemDirectoryHandle): Promise<readonly string[]> => {
    const names: string[] = [];
    for await (const [name, { kind }] of folder) {
      if (!partial.test(name)) names.push(kind === "directory" ? `${name}/` : name);
    }
    return names.sort();
  };

  /** Put content at a path: aside first, so that a page which ends meanwhile leaves the old file as it was. */
  const put = (path: string, fill: (into: FileSystemWritableFileStream) => Promise<void>, from?: File): Promise<void> =>
    navigator.locks.request(lockName("write", path), async () => {
      const parent = await parentFor(path);
      const aside = `.${nameOf(path)}.partial`;
      try {
        const file = await writing(path, parent.getFileHandle(aside, { create: true }));
        if (!("createWritable" in file)) {
          throw new TuneError("write-failed", `cannot write ${path}: this browser writes no files from a page.`, {
            fix: "use Chrome, Firefox 111 or Safari 26, or newer",
          });
        }
        const stream = await writing(path, file.createWritable());
        try {
          if (from) await writing(path, stream.write(from));
          await fill(stream);
        } catch (error) {
          await stream.abort();
          throw error;
        }
        await writing(path, stream.close());
        await writing(path, (file as unknown as Movable).move(parent, nameOf(path))); // as browsers have it
        changes.set(nameOfChange(path), (changes.get(nameOfChange(path)) ?? 0) + 1);
      } catch (error) {
        await orNothing(parent.removeEntry(aside), missing);
        throw error;
      }
    });
  const nameOfChange = (path: string): string => partsOf(path).join("/");

  const removeAt = async (path: string): Promise<void> => {
    const parts = partsOf(path);
    const parent = await folderOf(parts.slice(0, -1));
    if (parent) await orNothing(parent.removeEntry(parts.at(-1) ?? "", { recursive: true }), missing);
  };

  /** Whether a folder held no file, and is gone with those inside it. */
  const pruned = async (path: string): Promise<boolean> => {
    const folder = await folderOf(partsOf(path));
    if (folder === undefined) return false;
    let empty = true;
    for (const name of await namesIn(folder)) {
      if (!name.endsWith("/") || !(await pruned(joinPath(path, name)))) empty = false;
    }
    if (empty) await removeAt(path);
    return empty;
  };

  /** Browsers move files and no folders: a folder's files are moved one by one. */
  const moveInto = async (from: string, to: string): Promise<void> => {
    const file = await fileOf(from);
    if (file) {
      const parent = await writing(to, folderOf(partsOf(to).slice(0, -1), true));
      if (parent) await writing(to, (file as unknown as Movable).move(parent, nameOf(to))); // likewise
      return;
    }
    const folder = await folderOf(partsOf(from));
    for (const name of folder ? await namesIn(folder) : []) await moveInto(joinPath(from, name), joinPath(to, name));
    await removeAt(from);
  };

  return {
    read: async (path, range) => {
      const file = await reading(path, fileOf(path));
      if (file === undefined) {
        const why = (await isFolder(path)) ? `${path} is a folder, not a file.` : `no file ${path}.`;
        throw new TuneError("file-not-found", why);
      }
      const whole = await reading(path, file.getFile());
      const { start, end } = range ?? { start: 0, end: whole.size };
      if (start < 0 || end < start || end > whole.size) {
        throw new TuneError("read-failed", `cannot read bytes ${start} to ${end} of ${path}: it has ${whole.size}.`);
      }
      return new Uint8Array(await reading(path, whole.slice(start, end).arrayBuffer()));
    },
    sizeBytes: async (path) => (await (await reading(path, fileOf(path)))?.getFile())?.size,
    stamp: async (path) => {
      const file = await (await reading(path, fileOf(path)))?.getFile();
      return file && `${file.size} ${file.lastModified} ${changes.get(nameOfChange(path)) ?? 0}`;
    },
    list: async (path) => {
      const folder = await reading(path, folderOf(partsOf(path)));
      return folder ? reading(path, namesIn(folder)) : [];
    },
    freeBytes: async () => {
      const { quota, usage } = await navigator.storage.estimate();
      return quota === undefined || usage === undefined ? undefined : quota - usage;
    },
    write: (path, content) =>
      put(path, async (stream) => {
        for await (const chunk of chunksOf(content)) await writing(path, stream.write(chunk.slice())); // may be reused
      }),
    append: async (path, content) => {
      const before = await (await fileOf(path))?.getFile();
      const text = typeof content === "string" ? content : content.slice();
      await put(path, (stream) => writing(path, stream.write(text)), before);
    },
    rename: async (from, to) => {
      const [source, target] = [partsOf(from).join("/"), partsOf(to).join("/")];
      const [file, folder] = [await fileOf(from), await isFolder(from)];
      if (!file && !folder) throw new TuneError("file-not-found", `cannot rename ${from}: there is no such file.`);
      if (source === target) return;
      const taken = await folderOf(partsOf(to));
      const full = taken && (await namesIn(taken)).length > 0;
      if (target.startsWith(`${source}/`) || full || (folder && (await fileOf(to)))) {
        const why = full || !folder ? "is there" : "is inside it, or a file";
        throw new TuneError("write-failed", `cannot rename ${from}: ${to} ${why}.`);
      }
      if (taken) await removeAt(to);
      await moveInto(from, to);
    },
    remove: (path) => writing(path, removeAt(path)),
    prune: async (path) => void (await writing(path, pruned(path))),
    resolve: async (path) => partsOf(path).slice(partsOf("").length).join("/"),
    fixed: async (path) => partsOf(path).length === partsOf("").length,
    lock: (path) =>
      new Promise((resolve, reject) => {
        const held = navigator.locks.request(lockName("lock", path), { ifAvailable: true }, (lock) => {
          if (lock === null) return reject(inUse(path, "another page"));
          return new Promise<void>((release) =>
            resolve({
              release: async () => {
                release();
                await held;
              },
            }),
          );
        });
        held.catch(reject);
      }),
  };
}

/** What is written aside. */
const partial = /^\..*\.partial$/;

const missing: readonly string[] = ["NotFoundError", "TypeMismatchError"];

async function* chunksOf(content: string | Uint8Array | AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  if (typeof content === "string") yield new TextEncoder().encode(content);
  else if (content instanceof Uint8Array) yield content;
  else yield* content;
}

async function orNothing<T>(work: Promise<T>, names: readonly string[]): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && names.includes(error.name)) return undefined;
    throw error;
  }
}

const reading = <T>(path: string, work: Promise<T>): Promise<T> => said("read-failed", `cannot read ${path}`, work);
const writing = <T>(path: string, work: Promise<T>): Promise<T> => said("write-failed", `cannot write ${path}`, work);

async function said<T>(code: "read-failed" | "write-failed", what: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof TuneError) throw error;
    throw new TuneError(code, `${what}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}
