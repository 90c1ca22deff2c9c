import { mkdir, mkdtemp, open, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, vi } from "vitest";
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

it("follows symbolic links, as the hub's cache is made of them", async () => {
  const root = await folder();
  await nodeStorage.write(join(root, "blobs/x"), "content");
  await mkdir(join(root, "snapshot"));
  await symlink("../blobs/x", join(root, "snapshot/model.bin"));
  await symlink("../blobs", join(root, "snapshot/more"));
  expect(await nodeStorage.list(join(root, "snapshot"))).toEqual(["model.bin", "more/"]);
  expect(await nodeStorage.sizeBytes(join(root, "snapshot/model.bin"))).toBe(7);
});

it("survives what a killed replacement left behind", async () => {
  const root = await folder();
  await nodeStorage.write(join(root, "out.replaced/stale"), "");
  await nodeStorage.write(join(root, "out/a"), "old");
  await nodeStorage.write(join(root, "next/b"), "new");
  await nodeStorage.rename(join(root, "next"), join(root, "out"));
  expect(await nodeStorage.list(root)).toEqual(["out/"]);
  expect(await nodeStorage.list(join(root, "out"))).toEqual(["b"]);
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
