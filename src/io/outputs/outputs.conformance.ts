import { describe, expect, it } from "vitest";
import { TuneError } from "../../errors.ts";
import { joinPath, type Storage } from "../storage.ts";
import { checkFolder, checkPicture, claimFolder, guardOutputs, putBack, writeFolder, writePicture } from "./index.ts";

/** What writing to a {@link Storage} promises: nothing is lost. `fresh` gives one and an empty folder of it. */
export function outputConformance(
  name: string,
  fresh: () => Promise<{ readonly storage: Storage; readonly root: string }>,
): void {
  const text = async (storage: Storage, path: string): Promise<string> =>
    new TextDecoder().decode(await storage.read(path));
  const fill =
    (storage: Storage, files: Readonly<Record<string, string>>) =>
    async (staging: string): Promise<void> => {
      for (const [file, content] of Object.entries(files)) await storage.write(joinPath(staging, file), content);
    };
  const refused = async (code: string, promise: Promise<unknown>): Promise<void> => {
    const error = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(TuneError);
    expect(error).toMatchObject({ code });
  };
  /** Every file below a folder with its content. */
  const all = async (storage: Storage, folder: string): Promise<Readonly<Record<string, string>>> => {
    const files: Record<string, string> = {};
    for (const entry of await storage.list(folder)) {
      const path = joinPath(folder, entry);
      if (entry.endsWith("/")) Object.assign(files, prefixed(entry, await all(storage, path.slice(0, -1))));
      else files[entry] = await text(storage, path);
    }
    return files;
  };
  const prefixed = (prefix: string, files: Readonly<Record<string, string>>): Readonly<Record<string, string>> =>
    Object.fromEntries(Object.entries(files).map(([file, content]) => [prefix + file, content]));

  // A folder that can be moved, and one that stays where it is, such as a mount point.
  for (const fixed of [false, true]) {
    const check = (title: string, body: (storage: Storage, path: (name: string) => string) => Promise<void>): void => {
      it(title, async () => {
        const { storage, root } = await fresh();
        const own: Storage = { ...storage, fixed: async () => fixed };
        await body(own, (relative) => joinPath(root, relative));
      });
    };

    describe(`outputs on ${name}, in a folder that ${fixed ? "stays" : "can be moved"}`, () => {
      check("a stranger's list or manifest moves and removes nothing elsewhere", async (storage, path) => {
        await storage.write(path("mine"), "mine");
        const list = path("stranger/.scion-partial/.scion-moves.json");
        for (const moves of [
          { in: ["../../mine"] },
          { out: ["../mine"] },
          { in: ["/mine"] },
          { in: ["a/../../../mine"] },
          { in: "mine" },
          { out: [7] },
          { out: ["c:/mine"] },
          { in: ["..\\..\\mine"] },
        ]) {
          await storage.write(list, JSON.stringify(moves));
          await storage.write(path("stranger/config.json"), "{}");
          await refused("put-aside", putBack(storage, path("stranger")));
          expect(await all(storage, path(""))).toMatchObject({ mine: "mine", "stranger/config.json": "{}" });
        }
        const manifest = { version: 1, kind: "replaced", files: { "../../mine": "0" } };
        await storage.write(path("gone.scion-replaced/.scion.json"), JSON.stringify(manifest));
        await storage.write(path("gone.scion-replaced/old/a"), "a");
        await putBack(storage, path("gone"));
        expect(await text(storage, path("mine"))).toBe("mine");
      });

      check("writes folders whole or not at all, and over its own without a question", async (storage, path) => {
        const out = path("out");
        await writeFolder(storage, out, "peft", fill(storage, { a: "1", "sub/b": "1" }));
        await writeFolder(storage, out, "peft", fill(storage, { a: "2", "sub/c": "2" }));
        const broken = writeFolder(storage, out, "peft", async (staging) => {
          await fill(storage, { a: "3" })(staging);
          throw new TuneError("write-failed", "disk gone");
        });
        await refused("write-failed", broken);
        const { ".scion.json": _manifest, ...files } = await all(storage, out);
        expect(files).toEqual({ a: "2", "sub/c": "2" });
        expect(await storage.list(path(""))).toEqual(["out/"]);
      });

      check("leaves a folder of somebody else's, and replaces it when that is asked for", async (storage, path) => {
        await storage.write(path("thesis/ch1/a.tex"), "text");
        const write = (to: Storage): Promise<void> => writeFolder(to, path("thesis"), "peft", fill(to, { a: "1" }));
        await refused("output-exists", checkFolder(storage, path("thesis"), "peft"));
        await refused("output-exists", write(storage));
        expect(await all(storage, path(""))).toEqual({ "thesis/ch1/a.tex": "text" });
        await write(guardOutputs(storage, { replace: true }));
        expect(Object.keys(await all(storage, path("")))).toEqual(["thesis/.scion.json", "thesis/a"]);
      });

      check("leaves files that came or changed in a folder of its own", async (storage, path) => {
        const write = (): Promise<void> =>
          writeFolder(storage, path("out"), "peft", fill(storage, { a: "1", "sub/b": "1" }));
        for (const [file, content] of [
          ["notes", "mine"],
          ["sub/notes", "mine"],
          ["a", "edited"],
        ] as const) {
          await write();
          const before = await all(storage, path("out"));
          await storage.write(path(`out/${file}`), content);
          await refused("output-exists", write());
          expect(await all(storage, path("out"))).toEqual({ ...before, [file]: content });
          await storage.remove(path("out"));
        }
      });

      check("sees what comes while it writes", async (storage, path) => {
        await writeFolder(storage, path("out"), "peft", fill(storage, { a: "1" }));
        const slow = writeFolder(storage, path("out"), "peft", async (staging) => {
          await fill(storage, { a: "2" })(staging);
          await storage.write(path("out/mine"), "mine");
        });
        await refused("output-exists", slow);
        expect(await all(storage, path("out"))).toMatchObject({ a: "1", mine: "mine" });
      });

      check("asks before another kind of output is replaced", async (storage, path) => {
        await writeFolder(storage, path("out"), "peft", fill(storage, { a: "1" }));
        await refused("output-exists", writeFolder(storage, path("out"), "gguf", fill(storage, { b: "2" })));
        await claimFolder(storage, path("run"), { kind: "run", names: ["metrics.jsonl"] });
        await storage.append(path("run/metrics.jsonl"), "{}");
        await refused("output-exists", writeFolder(storage, path("run"), "peft", fill(storage, { a: "1" })));
        expect(await text(storage, path("run/metrics.jsonl"))).toBe("{}");
      });

      check("writes no folder over what is read, whatever is asked for", async (storage, path) => {
        await storage.write(path("models/base/w"), "base");
        await storage.write(path("models/base/onnx/w"), "base");
        await storage.write(path("models/other/w"), "other");
        await storage.write(path("data.jsonl"), "{}");
        const before = await all(storage, path(""));
        const guarded = guardOutputs(storage, { inputs: [path("models/base"), path("data.jsonl")], replace: true });
        for (const output of ["models", "models/base", "models/base/onnx"])
          await refused("output-is-input", writeFolder(guarded, path(output), "peft", fill(guarded, { a: "1" })));
        await refused("output-is-file", writeFolder(guarded, path("data.jsonl"), "peft", fill(guarded, { a: "1" })));
        await refused("output-is-input", writePicture(guarded, path("data.jsonl"), "<svg></svg>\n"));
        await refused("output-is-input", guarded.write(path("data.jsonl"), ""));
        await refused("output-is-input", guarded.append(path("data.jsonl"), ""));
        await refused("output-is-input", guarded.remove(path("models")));
        await refused("output-is-input", guarded.rename(path("models"), path("elsewhere")));
        expect(await all(storage, path(""))).toEqual(before);
        await writeFolder(guarded, path("models/base/merged"), "peft", fill(guarded, { a: "1" }));
        await writeFolder(guarded, path("models/base/merged"), "peft", fill(guarded, { a: "2" }));
        expect(await text(storage, path("models/base/merged/a"))).toBe("2");
      });

      check("refuses a file where a folder is asked for", async (storage, path) => {
        await storage.write(path("notes.md"), "mine");
        for (const to of [storage, guardOutputs(storage, { replace: true })]) {
          await refused("output-is-file", writeFolder(to, path("notes.md"), "peft", fill(to, { a: "1" })));
          await refused("output-is-file", claimFolder(to, path("notes.md"), { kind: "run", names: ["a"] }));
        }
        expect(await all(storage, path(""))).toEqual({ "notes.md": "mine" });
      });

      check("leaves neighbours alone, whatever they are called", async (storage, path) => {
        const mine = {
          "out.partial/mine": "mine",
          "out.replaced/mine": "mine",
          "out.scion-partial/mine": "mine",
          "out.scion-replaced/mine": "mine",
        };
        for (const [file, content] of Object.entries(mine)) await storage.write(path(file), content);
        for (const round of ["1", "2"]) {
          await writeFolder(storage, path("out"), "peft", fill(storage, { a: round }));
          expect(await all(storage, path(""))).toMatchObject({ ...mine, "out/a": round });
        }
        expect(await storage.list(path(""))).toEqual([
          "out.partial/",
          "out.replaced/",
          "out.scion-partial/",
          "out.scion-replaced/",
          "out/",
        ]);
      });

      for (const replaced of ["own", "others"] as const) {
        check(`loses nothing of ${replaced} files when it is killed at any moment`, async (storage, path) => {
          for (let moment = 0; ; moment++) {
            const at = (file: string): string => path(`${moment}/${file}`);
            const old = { a: "old", "sub/b": "old" };
            if (replaced === "own") await writeFolder(storage, at("out"), "peft", fill(storage, old));
            else await fill(storage, old)(at("out"));
            await storage.write(at("beside"), "mine");
            const killed = killedAfter(storage, moment);
            const writer = guardOutputs(killed.storage, { replace: replaced === "others" });
            const ended = await writeFolder(writer, at("out"), "peft", fill(writer, { a: "new", "sub/c": "new" })).then(
              () => true,
              () => false,
            );
            if (ended) {
              expect(moment).toBeGreaterThan(8);
              break;
            }
            const left = await all(storage, at(""));
            const has = (files: readonly string[], content: string): boolean =>
              files.every((file) =>
                Object.entries(left).some(([name, is]) => name.endsWith(`/${file}`) && is === content),
              );
            expect(has(["a", "sub/b"], "old") || has(["a", "sub/c"], "new"), `killed at ${moment}`).toBe(true);
            await killed.release();
            // Who reads it next finds all of the one or all of the other.
            await putBack(guardOutputs(storage, { inputs: [at("out")] }), at("out/sub/b"));
            const { ".scion.json": _told, ...read } = await all(storage, at("out"));
            const staged = Object.keys(read).filter((name) => name.startsWith(".scion-partial/"));
            for (const name of staged) delete (read as Record<string, string>)[name];
            expect([old, { a: "new", "sub/c": "new" }], `killed at ${moment}`).toContainEqual(read);
            // The next writer goes on from there, and nothing of this one stays.
            const again = guardOutputs(storage, { replace: replaced === "others" });
            await writeFolder(again, at("out"), "peft", fill(again, { a: "newer" }));
            const { "out/.scion.json": _manifest, ...files } = await all(storage, at(""));
            expect(files, `killed at ${moment}`).toEqual({ "out/a": "newer", beside: "mine" });
          }
        });
      }

      check("puts back what a killed writer had put aside, and waits for one that is alive", async (storage, path) => {
        if (fixed) return;
        await storage.write(path("out.scion-replaced/mine"), "somebody else's");
        await writeFolder(storage, path("out"), "peft", fill(storage, { a: "1" }));
        let reader: Promise<unknown> = Promise.resolve();
        let between = 0;
        const slow: Storage = {
          ...storage,
          rename: async (from, to) => {
            await storage.rename(from, to);
            if (!to.endsWith("/old")) return;
            between++;
            reader = putBack(storage, path("out/a")).then(() => text(storage, path("out/a")));
            await new Promise((resolve) => setTimeout(resolve, 100));
          },
        };
        await writeFolder(slow, path("out"), "peft", fill(slow, { a: "2" }));
        expect([between, await reader]).toEqual([1, "2"]);
        expect(await storage.list(path(""))).toEqual(["out.scion-replaced/", "out/"]);
        // Nor is anything done about what nobody put aside.
        await putBack(storage, path("elsewhere/out"));
        await storage.remove(path("out"));
        await putBack(storage, path("out"));
        expect(await all(storage, path(""))).toEqual({ "out.scion-replaced/mine": "somebody else's" });
      });

      check(
        "knows what a killed process left half written, and counts none of it as somebody's",
        async (storage, path) => {
          const id = "01234567-89ab-cdef-0123-456789abcdef";
          const half = `.b.00000000-1-1-${id}.partial`;
          const write = (): Promise<void> =>
            writeFolder(storage, path("out"), "peft", fill(storage, { a: "1", "sub/b": "1" }));
          await write();
          await storage.write(path(`out/${half}`), "half");
          await storage.write(path(`out/sub/${half}`), "half");
          // Killed in its very first write, a staging folder holds no manifest yet.
          if (!fixed) await storage.write(path(`out.scion-partial/${half}`), "half");
          await write();
          if (!fixed)
            expect(Object.keys(await all(storage, path("")))).toEqual(["out/.scion.json", "out/a", "out/sub/b"]);
          await storage.write(path(`run/run.lock.${id}`), "half");
          await storage.write(path(`run/${half}`), "half");
          await claimFolder(storage, path("run"), { kind: "run", names: ["metrics.jsonl"] });
        },
      );

      check("claims a folder, and goes on with what it has claimed", async (storage, path) => {
        const claim = { kind: "run", names: ["metrics.jsonl", "events.*.scion", "adapter/"] };
        const replacing = guardOutputs(storage, { replace: true });
        await claimFolder(storage, path("run"), claim);
        await storage.append(path("run/metrics.jsonl"), "{}");
        await storage.write(path("run/events.12.scion"), "e");
        await storage.write(path("run/mine"), "mine");
        await claimFolder(storage, path("run"), claim);
        await storage.write(path("run/picture.svg"), "mine");
        await refused(
          "output-exists",
          claimFolder(storage, path("run"), { ...claim, names: [...claim.names, "picture.svg"] }),
        );
        expect(Object.keys(await all(storage, path("run")))).toEqual([
          ".scion.json",
          "events.12.scion",
          "metrics.jsonl",
          "mine",
          "picture.svg",
        ]);
        await claimFolder(replacing, path("run"), { ...claim, fresh: true });
        expect(Object.keys(await all(storage, path("run")))).toEqual([".scion.json", "mine", "picture.svg"]);
        await storage.write(path("others/metrics.jsonl"), "theirs");
        await storage.write(path("others/more"), "theirs");
        await refused("output-exists", claimFolder(storage, path("others"), claim));
        const reading = guardOutputs(replacing, { inputs: [path("others/more")] });
        await refused("output-is-input", claimFolder(reading, path("others"), claim));
        await claimFolder(replacing, path("others"), claim);
        expect(Object.keys(await all(storage, path("others")))).toEqual([".scion.json", "more"]);
      });

      check("draws over its own pictures alone", async (storage, path) => {
        const [one, two] = ["<svg>\n1\n</svg>\n", "<svg>\n2\n</svg>\n"];
        await writePicture(storage, path("a.svg"), one);
        await writePicture(storage, path("a.svg"), two);
        const drawn = await text(storage, path("a.svg"));
        expect(drawn).toMatch(/^<svg>\n2\n<!-- scion [0-9a-f]{32} --><\/svg>\n$/);
        for (const theirs of ["mine", two, drawn.replace("2", "3")]) {
          await storage.write(path("b.svg"), theirs);
          await refused("output-exists", checkPicture(storage, path("b.svg")));
          await refused("output-exists", writePicture(storage, path("b.svg"), one));
          expect(await text(storage, path("b.svg"))).toBe(theirs);
        }
        await writePicture(guardOutputs(storage, { replace: true }), path("b.svg"), one);
        expect(await text(storage, path("b.svg"))).toContain("1");
      });
    });
  }
}

/** A storage that does nothing any more after so many changes, as if the process had been killed. */
function killedAfter(
  storage: Storage,
  changes: number,
): { readonly storage: Storage; readonly release: () => Promise<void> } {
  let left = changes;
  const locks: { release(): Promise<void> }[] = [];
  const live = <Args extends readonly unknown[]>(act: (...args: Args) => Promise<void>) => {
    return async (...args: Args): Promise<void> => {
      if (left-- <= 0) throw new Error("killed");
      await act(...args);
    };
  };
  return {
    storage: {
      ...storage,
      write: live(storage.write),
      append: live(storage.append),
      rename: live(storage.rename),
      remove: live(storage.remove),
      prune: live(storage.prune),
      lock: async (path) => {
        const lock = await storage.lock(path);
        locks.push(lock);
        return { release: async () => undefined };
      },
    },
    release: async () => {
      for (const lock of locks) await lock.release();
    },
  };
}
