import { TuneError } from "../../src/errors.ts";
import { memoryStorage } from "../../src/io/memory-storage.ts";
import type { Storage } from "../../src/io/storage.ts";
import { createRng } from "../../src/linalg/index.ts";
import { damaged } from "./damaged.ts";
import { nameOf, subjects } from "./mutation-subjects.ts";

/*
 * Read `count` damaged files of every kind, and say a line of JSON about each: the code that it was refused with, nothing
 * when it could be read, or how it crashed; and the most memory taken so far.
 */
const [count, seed] = [Number(process.argv[2]), Number(process.argv[3])];
const say = (line: object): void => {
  process.stdout.write(`${JSON.stringify({ ...line, maxRssBytes: 1024 * process.resourceUsage().maxRSS })}\n`);
};
/** Which sources read what, while whole files are read: which are in the stack of a call. */
const [sources, names] = [new Set<string>(), new Set<string>()];
function watched(storage: Storage): Storage {
  return {
    ...storage,
    read: (path, range) => {
      names.add(nameOf(path));
      for (const [, source = ""] of (new Error().stack ?? "").matchAll(/\/src\/([\w/.-]+\.ts)/g)) sources.add(source);
      return storage.read(path, range);
    },
  };
}
Error.stackTraceLimit = 100;
for (const { files, read } of Object.values(subjects)) await read(watched(memoryStorage(files))); // whole, they can be read
Error.stackTraceLimit = 10;
say({ sources: [...sources], names: [...names] });
for (const [name, { files, path, read }] of Object.entries(subjects)) {
  for (let i = 0; i < count; i++) {
    const wounded = damaged(files[path] as Uint8Array, createRng(seed, name, i));
    try {
      await read(memoryStorage({ ...files, [path]: wounded }));
      say({ name, i });
    } catch (error) {
      if (error instanceof TuneError) say({ name, i, code: error.code });
      else say({ name, i, crash: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  }
}
