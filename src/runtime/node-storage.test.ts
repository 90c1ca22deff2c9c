import { lstat, mkdir, mkdtemp, open, readFile, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, vi } from "vitest";
import { guardOutputs, writeFolder } from "../io/outputs/index.ts";
import { outputConformance } from "../io/outputs/outputs.conformance.ts";
import { storageConformance } from "../io/storage.conformance.ts";
import { nodeStorage } from "./node-storage.ts";

const roots: string[] = [];
async function folder(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "scion-storage-"));
  roots.push(root);
  return root;
}
afterAll(() => Promise.all(roots.map((root) => rm(root, { recursive: true, force: true }))));

storageConformance("node", async () => ({ storage: nodeStorage, root: await folder() }));
outputConformance("node", async () => ({ storage: nodeStorage, root: await folder() }));

it("follows symbolic links, as the hub's cache is made of them", async () => {
  const root = await folder();
  await nodeStorage.write(join(root, "blobs/x"), "content");
  await mkdir(join(root, "snapshot"));
  await symlink("../blobs/x", join(root, "snapshot/model.bin"));
  await symlink("../blobs", join(root, "snapshot/more"));
  expect(await nodeStorage.list(join(root, "snapshot"))).toEqual(["model.bin", "more/"]);
  expect(await nodeStorage.sizeBytes(join(root, "snapshot/model.bin"))).toBe(7);
});

it("takes over locks of processes that are gone, elsewhere by their silence, and no other", async () => {
  const root = await folder();
  const path = join(root, "run");
  const lock = await nodeStorage.lock(path);
  const own = JSON.parse(await readFile(`${path}.lock`, "utf8"));
  await lock.release();
  const minutes = 60_000;
  const gone = { pid: 2 ** 22 + 1, started: "1" };
  const elsewhere = { place: "another boot", host: hostname() };
  for (const [holder, silentMs, taken] of [
    [{ ...own, ...gone }, 0, true],
    [{ ...own, started: "1" }, 0, process.platform === "linux"], // another process had that number
    [own, 600 * minutes, false], // this very process, however long it was busy
    [{ ...own, ...gone, ...elsewhere }, 20 * minutes, false],
    [{ ...own, ...elsewhere }, 20 * minutes, false],
    [{ ...own, ...gone, ...elsewhere }, 31 * minutes, true],
    [{ ...own, host: "another", place: "" }, 20 * minutes, false],
    [{ ...own, host: "another", place: "" }, 31 * minutes, true],
  ] as const) {
    await writeFile(`${path}.lock`, JSON.stringify(holder));
    const then = new Date(Date.now() - silentMs);
    await utimes(`${path}.lock`, then, then);
    const found = await nodeStorage.lock(path).then(
      async (got) => got.release().then(() => "taken"),
      (error: { readonly code: string }) => error.code,
    );
    expect([holder, silentMs, found]).toEqual([holder, silentMs, taken ? "taken" : "in-use"]);
  }
});

it("writes its lock again, so that others see it is alive", async () => {
  const root = await folder();
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    const lock = await nodeStorage.lock(join(root, "run"));
    const file = join(root, "run.lock");
    const text = await readFile(file, "utf8");
    await utimes(file, 1, 1);
    vi.advanceTimersByTime(61_000);
    await vi.waitFor(async () => expect(await nodeStorage.stamp(file)).not.toMatch(/ 1000000000$/));
    expect(await readFile(file, "utf8")).toBe(text);
    await lock.release();
    expect(await nodeStorage.list(root)).toEqual([]);
  } finally {
    vi.useRealTimers();
  }
});

it("clears what processes that are gone left half written, and nothing else", async () => {
  const root = await folder();
  const id = "01234567-89ab-cdef-0123-456789abcdef";
  let during: readonly string[] = [];
  await nodeStorage.write(
    join(root, "a"),
    (async function* () {
      during = await nodeStorage.list(root);
      yield Uint8Array.of(1);
    })(),
  );
  const [live = ""] = during;
  const [, place = ""] = /^\.a\.([0-9a-f]{8})-/.exec(live) ?? [];
  expect(place).not.toBe("");
  const dead = `.a.${place}-${2 ** 22 + 1}-1-${id}.partial`;
  const [silent, recent] = [`.a.00000000-1-1-${id}.partial`, `.b.00000000-1-1-${id}.partial`];
  const others = [live, recent, "mine.partial", ".mine.partial", `.x.${id}.partial`];
  for (const name of [dead, silent, ...others]) await writeFile(join(root, name), "");
  const then = new Date(Date.now() - 31 * 60_000);
  await utimes(join(root, silent), then, then);
  await (await nodeStorage.lock(join(root, "run"))).release();
  expect(await nodeStorage.list(root)).toEqual([...others, "a"].sort());
});

it("writes what a link points to, and leaves the link", async () => {
  const root = await folder();
  await nodeStorage.write(join(root, "disk/a"), "old");
  await symlink("disk", join(root, "link"));
  await symlink("disk/a", join(root, "to-a"));
  await symlink("disk/none", join(root, "to-none"));
  await nodeStorage.write(join(root, "to-a"), "new");
  await nodeStorage.write(join(root, "to-none"), "made");
  expect((await nodeStorage.read(join(root, "disk/a"))).toString()).toBe(
    (await nodeStorage.read(join(root, "to-a"))).toString(),
  );
  expect(await nodeStorage.list(join(root, "disk"))).toEqual(["a", "none"]);
  await nodeStorage.remove(join(root, "disk/a"));
  await nodeStorage.remove(join(root, "disk/none"));
  await writeFolder(nodeStorage, join(root, "link"), "peft", (staging) => nodeStorage.write(join(staging, "b"), ""));
  expect((await lstat(join(root, "link"))).isSymbolicLink()).toBe(true);
  expect(await nodeStorage.list(join(root, "disk"))).toEqual([".scion.json", "b"]);
});

it("knows an input through a link", async () => {
  const root = await folder();
  await nodeStorage.write(join(root, "blobs/weights"), "x");
  await mkdir(join(root, "model"));
  await symlink("../blobs/weights", join(root, "model/weights"));
  await symlink("model", join(root, "other-name"));
  const storage = guardOutputs(nodeStorage, { inputs: [join(root, "model")], replace: true });
  for (const output of ["other-name", "model", "blobs"]) {
    const writing = writeFolder(storage, join(root, output), "peft", async () => undefined);
    await expect(writing, output).rejects.toMatchObject({ code: "output-is-input" });
  }
});

it("replaces the current folder's files one by one, and the folder stays", async () => {
  const root = await folder();
  const before = process.cwd();
  const write = (name: string): Promise<void> =>
    writeFolder(nodeStorage, ".", "peft", (staging) => nodeStorage.write(join(staging, name), name));
  try {
    process.chdir(root);
    const { ino } = await stat(root);
    expect(await nodeStorage.fixed(".")).toBe(true);
    await write("one");
    await write("sub/two");
    expect((await stat(root)).ino).toBe(ino);
    expect(await nodeStorage.list(root)).toEqual([".scion.json", "sub/"]);
    await nodeStorage.write(join(root, "mine"), "mine");
    await expect(write("three")).rejects.toMatchObject({ code: "output-exists" });
    expect(await nodeStorage.list(root)).toEqual([".scion.json", "mine", "sub/"]);
  } finally {
    process.chdir(before);
  }
});

it("knows a mount point by the disk, or by the system's list", async () => {
  expect(await nodeStorage.fixed("/")).toBe(true);
  if (process.platform === "linux") expect(await nodeStorage.fixed("/proc")).toBe(true);
});

it("says how to mend a full disk, missing permission and a read-only disk", async () => {
  for (const [code, hint] of [
    ["ENOSPC", "free space"],
    ["EACCES", "permission"],
    ["EROFS", "read-only"],
  ] as const) {
    const root = await folder();
    const probe = await open(join(root, "probe"), "w");
    const failure = Object.assign(new Error(`${code}, write`), { code });
    // Every file handle shares this prototype: the next write of any of them fails as a full disk would make it.
    const write = vi.spyOn(Object.getPrototypeOf(probe), "write").mockRejectedValue(failure);
    await probe.close();
    await expect(nodeStorage.write(join(root, "a"), "text")).rejects.toMatchObject({
      code: "write-failed",
      fix: expect.stringContaining(hint),
      message: expect.stringContaining(join(root, "a")),
    });
    write.mockRestore();
    expect(await nodeStorage.list(root)).toEqual(["probe"]);
  }
});
