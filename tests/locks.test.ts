import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { root, runHere } from "./helpers/cli.ts";
import { base, makeInputs, placeIn, small, writing } from "./helpers/writing-commands.ts";

/*
 * A law of locks: wherever one is made, what dead processes left there (the lock itself, drafts of it, files half written) is
 * cleared, of this host at once and of others by age. A file of the sources that makes locks without an entry here fails.
 */
const rows = ["-d", "in/rows.jsonl"];
const places: Readonly<Record<string, { readonly lock: string; readonly command: readonly string[] } | string>> = {
  "train/run.ts": { lock: "out/run.lock", command: ["tune", ...base, ...rows, ...small] },
  "api/compare.ts": { lock: "out/comparison.lock", command: ["compare", ...(writing["compare"]?.args ?? [])] },
  "api/continual.ts": { lock: "out/continual.lock", command: ["continual", ...(writing["continual"]?.args ?? [])] },
  "api/quantize.ts": { lock: "out.work/work.lock", command: ["quantize", ...(writing["quantize"]?.args ?? [])] },
  "api/load-data.ts": {
    lock: "out/examples.cache.lock",
    command: ["tune", ...base, ...rows, ...small, "--stream", "--validation", "0"],
  },
  "api/federation-folder.ts": {
    lock: "out/federation.lock",
    command: ["federate simulate", ...(writing["federate simulate"]?.args ?? [])],
  },
  "api/compare-federations.ts": {
    lock: "out/federation-comparison.lock",
    command: [
      "federate simulate",
      ...(writing["federate simulate"]?.args ?? []),
      ...["--compare", "ffa", "--rates", "0.1", "--seeds", "0"],
    ],
  },
  "api/nats-federation.ts": {
    lock: "out.lock",
    command: ["federate create", "--run", "shoot", "--address", "nats://127.0.0.1:4222"],
  },
  "privacy/ledger.ts": "privacy/ledger.test.ts",
  "io/outputs/write-folder.ts": { lock: "out.lock", command: ["merge", ...(writing["merge"]?.args ?? [])] },
  "io/outputs/put-back.ts": "the locks of write-folder.ts",
  "runtime/node-hub.ts": "runtime/node-hub.test.ts",
  "runtime/node-storage.ts": "makes them for the others",
  "runtime/node-lock.ts": "makes them for the others",
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-locks-"));
  await makeInputs(folder);
}, 120_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

it("has an entry for every file that makes locks", () => {
  const sources = (readdirSync(`${root}src`, { recursive: true, encoding: "utf8" }) as string[]).filter(
    (name) => name.endsWith(".ts") && !/\.(test|browser|conformance)\.ts$/.test(name),
  );
  const locking = sources.filter((name) =>
    /(\.lock|\blockFile)\(/.test(readFileSync(join(root, "src", name), "utf8").replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "")),
  );
  expect(locking.sort()).toEqual(Object.keys(places).sort());
});

const tried = Object.entries(places).flatMap(([file, place]) =>
  typeof place === "string" ? [] : [[file, place] as const],
);

describe.each(tried)("the lock of %s", (_file, { lock, command }) => {
  it("is taken over from the dead, with what they left beside it", async () => {
    const at = (name: string): string => join(folder, name);
    for (const name of ["out", "out.work"]) await rm(at(name), { recursive: true, force: true });
    const beside = dirname(lock) === "." ? "" : `${dirname(lock)}/`;
    await mkdir(at(beside), { recursive: true });
    const id = "01234567-89ab-cdef-0123-456789abcdef";
    const dead = { pid: 2 ** 22 + 1, started: "1", id };
    const here = JSON.stringify({ ...dead, host: hostname(), place: "" });
    const elsewhere = JSON.stringify({ ...dead, host: "another", place: "another boot" });
    const old = [`${lock}.${id}`, `${beside}other.lock`, `${beside}.a.00000000-1-1-${id}.partial`];
    const half = `${lock}.11111111-89ab-cdef-0123-456789abcdef`;
    const young = `${lock}.22222222-89ab-cdef-0123-456789abcdef`;
    for (const name of old) await writeFile(at(name), name.endsWith(".partial") ? "half" : elsewhere);
    await writeFile(at(half), '{"pid":');
    for (const name of [...old, half]) {
      const then = new Date(Date.now() - 31 * 60_000);
      await utimes(at(name), then, then);
    }
    await writeFile(at(lock), here);
    await writeFile(at(young), elsewhere); // alive, as far as is known
    await writeFile(at(`${beside}mine.lock`), "mine");
    const live = await nodeStorage.lock(at(`${beside}live`));
    const [name = "", ...args] = command.map((arg) => placeIn(folder, arg));
    expect((await runHere(name, ...args, "--output", at("out"))).code).toBe(0);
    for (const stray of [lock, half, ...old]) expect(existsSync(at(stray)), stray).toBe(false);
    for (const kept of [young, `${beside}mine.lock`, `${beside}live.lock`])
      expect(existsSync(at(kept)), kept).toBe(true);
    await live.release();
    for (const kept of [young, `${beside}mine.lock`]) await rm(at(kept));
  }, 120_000);
});

it("is gone with a process that exits while it has it, unless another took it over", async () => {
  const script = `
    import { writeFile } from "node:fs/promises";
    import { nodeStorage } from "${root}dist/runtime/node-storage.js";
    await nodeStorage.lock("exiting");
    await nodeStorage.lock("taken");
    await writeFile("taken.lock", "another's");
    process.exit();`;
  execFileSync(process.execPath, ["--input-type=module", "-e", script], { cwd: folder });
  expect(existsSync(join(folder, "exiting.lock"))).toBe(false);
  expect(readFileSync(join(folder, "taken.lock"), "utf8")).toBe("another's");
});
