import { dirname, joinPath, type Storage } from "./storage.ts";

/** A storage in which some files are others, held in memory: by path, text each. What is written goes to the storage. */
export function withOtherFiles(storage: Storage, files: ReadonlyMap<string, string>): Storage {
  const bytes = new Map([...files].map(([path, text]) => [joinPath(path), new TextEncoder().encode(text)]));
  const at = (path: string): Uint8Array | undefined => bytes.get(joinPath(path));
  return {
    ...storage,
    read: async (path, range) => at(path)?.slice(range?.start, range?.end) ?? storage.read(path, range),
    sizeBytes: async (path) => at(path)?.length ?? storage.sizeBytes(path),
    stamp: async (path) => (at(path) ? "in memory" : storage.stamp(path)),
    diskPath: async (path) => (at(path) ? undefined : storage.diskPath?.(path)),
    list: async (folder) => {
      const own = [...bytes.keys()].filter((path) => dirname(path) === joinPath(folder).replace(/\/$/, ""));
      const names = own.map((path) => path.slice(path.lastIndexOf("/") + 1));
      return [...new Set([...(await storage.list(folder)), ...names])];
    },
    write: async (path, content, options) => {
      bytes.delete(joinPath(path));
      await storage.write(path, content, options);
    },
  };
}
