import { describe, expect, it } from "vitest";
import { TuneError } from "../errors.ts";
import { joinPath, type Storage } from "./storage.ts";

/** What every {@link Storage} promises. `fresh` gives one and an empty folder of it. */
export function storageConformance(
  name: string,
  fresh: () => Promise<{ readonly storage: Storage; readonly root: string }>,
): void {
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
  const check = (title: string, body: (storage: Storage, path: (name: string) => string) => Promise<void>): void => {
    it(title, async () => {
      const { storage, root } = await fresh();
      await body(storage, (relative) => joinPath(root, relative));
    });
  };
  const failsWith = async (code: string, promise: Promise<unknown>, naming: string): Promise<void> => {
    const error = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(TuneError);
    expect(error).toMatchObject({ code, message: expect.stringContaining(naming) });
  };

  describe(`${name} as a storage`, () => {
    check("tells that a file has changed, and that it has not", async (storage, path) => {
      expect(await storage.stamp(path("a"))).toBeUndefined();
      await storage.write(path("a"), "one");
      const before = await storage.stamp(path("a"));
      expect(await storage.stamp(path("a"))).toBe(before);
      await storage.write(path("a"), "two");
      expect(await storage.stamp(path("a"))).not.toBe(before);
      await storage.append(path("a"), Uint8Array.of(33));
      expect(text(await storage.read(path("a")))).toBe("two!");
    });

    check("locks what one has from the others, until it is released", async (storage, path) => {
      const lock = await storage.lock(path("deep/run"));
      await failsWith("in-use", storage.lock(path("deep/run")), "deep/run");
      await (await storage.lock(path("deep/other"))).release();
      await lock.release();
      const next = await storage.lock(path("deep/run"));
      await lock.release(); // again: it is another's now
      await failsWith("in-use", storage.lock(path("deep/run")), "deep/run");
      await next.release();
      expect(await storage.list(path("deep"))).toEqual([]);
    });

    check("reads back text, bytes and streams", async (storage, path) => {
      await storage.write(path("a.txt"), "héllo");
      await storage.write(path("deep/er/b.bin"), Uint8Array.of(1, 2, 3));
      const reused = new Uint8Array(2);
      await storage.write(
        path("c.bin"),
        (async function* () {
          for (const i of [1, 2, 3]) yield reused.fill(i);
        })(),
      );
      expect(text(await storage.read(path("a.txt")))).toBe("héllo");
      expect(await storage.read(path("deep/er/b.bin"))).toEqual(Uint8Array.of(1, 2, 3));
      expect(await storage.read(path("c.bin"))).toEqual(Uint8Array.of(1, 1, 2, 2, 3, 3));
      expect(await storage.sizeBytes(path("c.bin"))).toBe(6);
    });

    check("reads ranges, and refuses those past the end", async (storage, path) => {
      await storage.write(path("a"), Uint8Array.of(0, 1, 2, 3, 4));
      expect(await storage.read(path("a"), { start: 1, end: 4 })).toEqual(Uint8Array.of(1, 2, 3));
      expect(await storage.read(path("a"), { start: 5, end: 5 })).toEqual(new Uint8Array());
      await failsWith("read-failed", storage.read(path("a"), { start: 3, end: 6 }), path("a"));
      await failsWith("read-failed", storage.read(path("a"), { start: 3, end: 2 }), path("a"));
    });

    check("reads into memory that is handed over, or leaves it alone", async (storage, path) => {
      await storage.write(path("a"), Uint8Array.of(0, 1, 2, 3, 4));
      const memory = new ArrayBuffer(4);
      const part = await storage.read(path("a"), { start: 1, end: 4 }, memory);
      expect(part).toEqual(Uint8Array.of(1, 2, 3));
      expect([...new Uint8Array(memory)]).toEqual(part.buffer === memory ? [1, 2, 3, 0] : [0, 0, 0, 0]);
      expect(await storage.read(path("a"), { start: 0, end: 5 }, memory)).toEqual(Uint8Array.of(0, 1, 2, 3, 4));
    });

    check("gives bytes that nobody else holds", async (storage, path) => {
      const content = Uint8Array.of(1, 2);
      await storage.write(path("a"), content);
      content[0] = 9;
      (await storage.read(path("a")))[1] = 9;
      expect(await storage.read(path("a"))).toEqual(Uint8Array.of(1, 2));
    });

    check("names what is missing", async (storage, path) => {
      await storage.write(path("folder/a"), "x");
      expect(await storage.sizeBytes(path("none"))).toBeUndefined();
      expect(await storage.sizeBytes(path("folder"))).toBeUndefined();
      expect(await storage.sizeBytes(path("folder/a/b"))).toBeUndefined();
      expect(await storage.list(path("none"))).toEqual([]);
      for (const missing of ["none", "folder", "folder/a/b"]) {
        await failsWith("file-not-found", storage.read(path(missing)), path(missing));
      }
      await failsWith("file-not-found", storage.rename(path("none"), path("b")), path("none"));
    });

    check("lists a folder, sorted, folders ending in a slash", async (storage, path) => {
      for (const file of ["z", "a", "sub/x", "sub/y/z"]) await storage.write(path(file), "");
      expect(await storage.list(path(""))).toEqual(["a", "sub/", "z"]);
      expect(await storage.list(path("sub"))).toEqual(["x", "y/"]);
      expect(await storage.list(path("a"))).toEqual([]);
    });

    check("keeps the old file when a write fails midway, and leaves nothing beside it", async (storage, path) => {
      await storage.write(path("a"), "old");
      const broken = storage.write(
        path("a"),
        (async function* () {
          yield Uint8Array.of(1);
          throw new TuneError("not-finite-weight", "the reason");
        })(),
      );
      await failsWith("not-finite-weight", broken, "the reason");
      expect(text(await storage.read(path("a")))).toBe("old");
      expect(await storage.list(path(""))).toEqual(["a"]);
    });

    check("refuses to write where a folder is, or below a file", async (storage, path) => {
      await storage.write(path("folder/a"), "x");
      await failsWith("write-failed", storage.write(path("folder"), "y"), path("folder"));
      await failsWith("write-failed", storage.write(path("folder/a/b"), "y"), path("folder/a"));
      await failsWith("write-failed", storage.append(path("folder"), "y"), path("folder"));
      expect(await storage.list(path("folder"))).toEqual(["a"]);
    });

    check("appends, creating the file", async (storage, path) => {
      await storage.append(path("logs/a"), "one\n");
      await storage.append(path("logs/a"), "twö\n");
      expect(text(await storage.read(path("logs/a")))).toBe("one\ntwö\n");
    });

    check(
      "renames files and folders; a file takes a file's place, and nothing else is replaced",
      async (storage, path) => {
        await storage.write(path("file"), "file");
        await storage.write(path("other"), "other");
        await storage.write(path("old/kept"), "old");
        await storage.write(path("new/x"), "new");
        await failsWith("write-failed", storage.rename(path("new"), path("old")), path("old"));
        await failsWith("write-failed", storage.rename(path("file"), path("old")), path("old"));
        await failsWith("write-failed", storage.rename(path("new"), path("file")), path("file"));
        expect([await storage.list(path("old")), await storage.list(path("new"))]).toEqual([["kept"], ["x"]]);
        await storage.rename(path("file"), path("other"));
        expect(text(await storage.read(path("other")))).toBe("file");
        await storage.rename(path("new"), path("far/away"));
        expect(text(await storage.read(path("far/away/x")))).toBe("new");
        await storage.rename(path("far/away"), path("far/away"));
        expect(await storage.list(path("far"))).toEqual(["away/"]);
        await failsWith("write-failed", storage.rename(path("far"), path("far/inside")), "far/inside");
      },
    );

    check("removes folders that hold no file, and no other", async (storage, path) => {
      await storage.write(path("a/b/c"), "x");
      await storage.prune(path("a"));
      expect(await storage.list(path("a/b"))).toEqual(["c"]);
      await storage.remove(path("a/b/c"));
      await storage.prune(path("a"));
      await storage.prune(path("a"));
      expect(await storage.list(path(""))).toEqual([]);
    });

    check("knows a path by one name, whether it is there or not", async (storage, path) => {
      await storage.write(path("a/b"), "x");
      const real = await storage.resolve(path("a/b"));
      expect(await storage.resolve(path("./a//b"))).toBe(real);
      expect(await storage.resolve(real)).toBe(real);
      expect(await storage.resolve(path("a/none"))).toBe(real.replace(/b$/, "none"));
      expect([await storage.fixed(path("a")), await storage.fixed(path("none"))]).toEqual([false, false]);
    });

    check("removes files and folders, and does not mind when there is nothing", async (storage, path) => {
      await storage.write(path("sub/a"), "");
      await storage.write(path("b"), "");
      await storage.remove(path("sub"));
      await storage.remove(path("b"));
      await storage.remove(path("b"));
      await storage.remove(path("none/at/all"));
      expect(await storage.list(path(""))).toEqual([]);
    });
  });
}
