import { expect, it } from "vitest";
import { TuneError } from "../errors.ts";
import { tensor } from "../graph/index.ts";
import { contentHash, createContentHash } from "../io/content-hash.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { readSealed, writeSealed } from "../io/sealed.ts";
import type { Storage } from "../io/storage.ts";
import { readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { checkFingerprint } from "./fingerprint.ts";

const checkpoint = {
  progress: { step: 4, best: { step: 2, loss: 1.5 }, evaluationsWithoutGain: 1 },
  fingerprint: { seed: 1, config: { rope_theta: 10000 } },
  metrics: "0123456789abcdef0123456789abcdef",
  state: new Map([["a", tensor("float32", [2, 3], [1, -2, 3, 0, 5, 6])]]),
  best: new Map([["a", tensor("float32", [2, 3], 2)]]),
};

/** Every byte of a file in turn, changed in some ways: what reading it gives. */
async function changed(storage: Storage, path: string, read: () => Promise<unknown>): Promise<readonly string[]> {
  const whole = await storage.read(path);
  const taken: string[] = [];
  for (let at = 0; at < whole.length; at++) {
    for (const bits of [1, 0x20, 0x80, (whole[at] ?? 0) ^ 0x0a, (whole[at] ?? 0) ^ 0x20]) {
      if (bits === 0) continue;
      const bytes = whole.slice();
      bytes[at] = (bytes[at] ?? 0) ^ bits;
      await storage.write(path, bytes);
      const error = await read().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      if (!(error instanceof TuneError)) taken.push(`byte ${at} ^ ${bits}: ${String(error)}`);
    }
  }
  await storage.write(path, whole);
  return taken;
}

it("a checkpoint is read as it was written, and not with any byte changed", async () => {
  const storage = memoryStorage();
  await writeCheckpoint(storage, "c", checkpoint);
  expect(await readCheckpoint(storage, "c")).toEqual(checkpoint);
  expect(await changed(storage, "c", () => readCheckpoint(storage, "c"))).toEqual([]);
});

it("JSON with a checksum is read as it was written, and not with any byte changed", async () => {
  const storage = memoryStorage();
  const value = { fingerprint: { seed: 1 }, files: { "plan.json": "ab" }, nothing: undefined, rate: 1e-3 };
  await writeSealed(storage, "s", value);
  expect(await readSealed(storage, "s")).toEqual({
    fingerprint: { seed: 1 },
    files: { "plan.json": "ab" },
    rate: 1e-3,
  });
  expect(await changed(storage, "s", () => readSealed(storage, "s"))).toEqual([]);
  expect(await readSealed(storage, "none")).toBeUndefined();
});

it("a checkpoint of the version without a checksum is refused, and said to be old", async () => {
  const storage = memoryStorage();
  const { progress, fingerprint } = checkpoint;
  await writeSafetensors(storage, "c", [], { scion: JSON.stringify({ version: 1, progress, fingerprint }) });
  await expect(readCheckpoint(storage, "c")).rejects.toMatchObject({
    code: "bad-checkpoint",
    message: expect.stringContaining("older Scion"),
  });
});

it("the hash of content does not depend on how it is cut, and depends on every byte of it", () => {
  const bytes = Uint8Array.from({ length: 301 }, (_, i) => (i * 37) % 251);
  const whole = contentHash(bytes);
  for (const size of [1, 3, 7, 16, 50, 299]) {
    const hash = createContentHash();
    for (let at = 0; at < bytes.length; at += size) hash.update(bytes.subarray(at, at + size));
    expect(hash.digest()).toBe(whole);
  }
  const others = [new Uint8Array(301), bytes.subarray(0, 300), Uint8Array.of(...bytes, 0)].map((some) =>
    contentHash(some),
  );
  for (let at = 0; at < bytes.length; at++) {
    const other = bytes.slice();
    other[at] = (other[at] ?? 0) ^ 1;
    others.push(contentHash(other));
  }
  expect(new Set([whole, ...others]).size).toBe(others.length + 1);
});

it("a tensor's hash is that of its file, taken while it is read", async () => {
  const storage = memoryStorage();
  await writeSafetensors(storage, "a", [{ name: "w", tensor: tensor("float32", [4], [1, 2, 3, 4]) }]);
  let reads = 0;
  const counting: Storage = {
    ...storage,
    read: (...args) => {
      reads++;
      return storage.read(...args);
    },
  };
  const source = (await openSafetensors(counting, "a")).tensors.get("w");
  source?.content?.hashWhenRead();
  await source?.read();
  const before = reads;
  const hash = await source?.content?.hash();
  expect(reads).toBe(before);
  expect(await (await openSafetensors(storage, "a")).tensors.get("w")?.content?.hash()).toBe(hash);
  await writeSafetensors(storage, "a", [{ name: "w", tensor: tensor("float32", [4], [1, 2, 3, -4]) }]);
  expect(await (await openSafetensors(storage, "a")).tensors.get("w")?.content?.hash()).not.toBe(hash);
  await expect(source?.content?.hash()).rejects.toMatchObject({ code: "file-changed" });
});

it("differences are named down to the key, whatever the order of keys, each with how to mend it", () => {
  const saved = {
    seed: 1,
    weights: "a",
    config: { rope_theta: 10000, layers: 2 },
    tokenizer: { "tokenizer.json": "x" },
  };
  const same = {
    config: { layers: 2, rope_theta: 10000 },
    weights: "a",
    seed: 1,
    tokenizer: { "tokenizer.json": "x" },
  };
  expect(() => checkFingerprint(saved, same, "c")).not.toThrow();
  const now = { ...same, seed: 2, weights: "b", config: { rope_theta: 500, layers: 2 }, tokenizer: {} };
  expect(() => checkFingerprint(saved, now, "c")).toThrowError(
    /seed: 1 then, 2 now\n {2}weights: .*\n {2}config.rope_theta: 10000 then, 500 now\n {2}tokenizer.tokenizer.json: "x" then, nothing now\n {2}at c\n {2}→ .*weights are others.*config.json.*tokenizer.*give seed as/s,
  );
});
