import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { memoryStorage } from "../io/memory-storage.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { isPrivate, type LedgerEntry, openLedger, readLedger } from "./ledger.ts";
import { prvEpsilon } from "./prv.ts";
import { rdpEpsilon } from "./rdp.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-ledger-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const entry = (id: string, steps: number, more: Partial<LedgerEntry> = {}): LedgerEntry => ({
  id,
  samplingRate: 0.01,
  noiseMultiplier: 1.1,
  steps,
  ...more,
});
const budget = { epsilon: 1.6, delta: 1e-5 };

describe("the ledger of what was spent", () => {
  it("has steps on disk before it says that they may be made", async () => {
    const storage = memoryStorage();
    const ledger = await openLedger(storage, "ledger.json");
    await ledger.reserve(entry("round 1", 400), budget);
    expect(await readLedger(storage, "ledger.json")).toEqual([entry("round 1", 400)]);
    await ledger.reserve(entry("round 2", 400, { noiseMultiplier: 1.2 }), budget);
    expect(await readLedger(storage, "ledger.json")).toHaveLength(2);
    await ledger.close();

    const failing = { ...storage, write: () => Promise.reject(new Error("disk full")) };
    const again = await openLedger(failing, "ledger.json");
    await expect(again.reserve(entry("round 3", 1), budget)).rejects.toThrow("disk full");
    expect(again.entries).toHaveLength(2);
    await again.close();
  });

  it("refuses what would exceed the budget, writes nothing of it, and goes on with what fits", async () => {
    const storage = memoryStorage();
    const ledger = await openLedger(storage, "ledger.json");
    await ledger.reserve(entry("a", 1000), budget); // PRV: 1.525, RDP: 1.712
    const written = await storage.read("ledger.json");
    await expect(ledger.reserve(entry("b", 1000), budget)).rejects.toMatchObject({
      code: "budget-spent",
      message: expect.stringMatching(/from epsilon 1\.525 to 2\.\d+, beyond 1\.6/),
    });
    expect(await storage.read("ledger.json")).toEqual(written);
    expect(ledger.entries).toEqual([entry("a", 1000)]);
    await ledger.reserve(entry("b", 20), budget);
    expect(prvEpsilon(ledger.entries, 1e-5).epsilon).toBeLessThanOrEqual(1.6);
    await expect(ledger.reserve(entry("c", 1, { noiseMultiplier: 0 }), budget)).rejects.toMatchObject({
      code: "budget-spent",
    });
    await ledger.close();
  });

  it("believes the accountant that is asked for", async () => {
    expect(rdpEpsilon([entry("a", 1000)], 1e-5).epsilon).toBeGreaterThan(1.6);
    const ledger = await openLedger(memoryStorage(), "ledger.json");
    await expect(ledger.reserve(entry("a", 1000), { ...budget, accountant: "rdp" })).rejects.toMatchObject({
      code: "budget-spent",
    });
    await ledger.reserve(entry("a", 1000), { ...budget, accountant: "prv" });
  });

  it("counts steps of a run that goes on once, and more steps as more", async () => {
    const ledger = await openLedger(memoryStorage(), "ledger.json");
    await ledger.reserve(entry("run", 900), budget);
    await ledger.reserve(entry("run", 900), budget);
    await ledger.reserve(entry("run", 100), budget);
    expect(ledger.entries).toEqual([entry("run", 900)]);
    await ledger.reserve(entry("run", 1000), budget);
    expect(ledger.entries).toEqual([entry("run", 1000)]);
    await expect(
      ledger.reserve(entry("run", 1, { noiseMultiplier: 2, samplingRate: 0.02 }), budget),
    ).rejects.toMatchObject({
      code: "ledger-mismatch",
      message: expect.stringMatching(/samplingRate: 0\.01 then[\s\S]*noiseMultiplier: 1\.1/),
    });
    await ledger.settle("run", 300);
    await ledger.settle("run", 500); // never more
    await ledger.settle("nobody", 5);
    expect(ledger.entries).toEqual([entry("run", 300)]);
  });

  it("keeps the order of calls that are made at once, and never lets them exceed the budget together", async () => {
    const storage = memoryStorage();
    const ledger = await openLedger(storage, "ledger.json");
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, (_, i) => ledger.reserve(entry(`round ${i}`, 300), budget)),
    );
    const granted = results.filter(({ status }) => status === "fulfilled").length;
    expect(granted).toBe(3);
    expect(await readLedger(storage, "ledger.json")).toHaveLength(granted);
    expect(prvEpsilon(ledger.entries, 1e-5).epsilon).toBeLessThanOrEqual(1.6);
  });

  it("remembers that a key was no secret", async () => {
    const storage = memoryStorage();
    const ledger = await openLedger(storage, "ledger.json");
    await ledger.reserve(entry("a", 1), budget);
    expect(isPrivate(ledger.entries)).toBe(true);
    await ledger.reserve(entry("a", 1, { notPrivate: true }), budget);
    await ledger.reserve(entry("a", 2), budget); // the mark stays
    expect(isPrivate((await readLedger(storage, "ledger.json")) ?? [])).toBe(false);
  });

  it("is refused when it is damaged, whatever was damaged, and left as it is", async () => {
    const storage = memoryStorage();
    const ledger = await openLedger(storage, "ledger.json");
    await ledger.reserve(entry("a", 10), budget);
    await ledger.close();
    const whole = await storage.read("ledger.json");
    const bad = [
      ...[0, 20, 70, whole.length - 3].map((at) => whole.map((byte, i) => (i === at ? byte ^ 1 : byte))),
      whole.subarray(0, whole.length / 2),
      new Uint8Array(0),
      new TextEncoder().encode("{}"),
    ];
    for (const bytes of bad) {
      const broken = memoryStorage({ "ledger.json": bytes });
      await expect(openLedger(broken, "ledger.json")).rejects.toMatchObject({ code: "ledger-damaged" });
      await expect(readLedger(broken, "ledger.json")).rejects.toMatchObject({ code: "ledger-damaged" });
      expect(await broken.read("ledger.json")).toEqual(Uint8Array.from(bytes));
      await expect(openLedger(broken, "ledger.json")).rejects.toMatchObject({ code: "ledger-damaged" }); // no lock is left
    }
  });

  it("belongs to one process at a time, and survives the end of any", async () => {
    const path = join(folder, "killed.json");
    const ledger = await openLedger(nodeStorage, path);
    await expect(openLedger(nodeStorage, path)).rejects.toMatchObject({ code: "in-use" });
    await ledger.reserve(entry("before", 5), budget);
    await ledger.close();

    const source = fileURLToPath(new URL("ledger.ts", import.meta.url));
    const storage = fileURLToPath(new URL("../runtime/node-storage.ts", import.meta.url));
    const script = join(folder, "spender.mts");
    await writeFile(
      script,
      `import { openLedger } from ${JSON.stringify(source)};
import { nodeStorage } from ${JSON.stringify(storage)};
const ledger = await openLedger(nodeStorage, process.argv[2]);
for (let i = 0; ; i++) {
  await ledger.reserve({ id: String(i), samplingRate: 1e-4, noiseMultiplier: 5, steps: 1 }, { epsilon: 5, delta: 1e-5 });
  console.log(i);
}`,
    );
    const loader = fileURLToPath(new URL("../../node_modules/tsx/dist/loader.mjs", import.meta.url));
    const child = spawn(process.execPath, ["--import", loader, script, path], { stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (text) => {
        said += text;
        if (said.split("\n").length > 30) child.kill("SIGKILL");
      });
      child.on("exit", () => resolve());
    });
    const granted = said.trim().split("\n").length;
    const after = await openLedger(nodeStorage, path);
    // All that was granted is there, and at most one step more, whose grant was not heard.
    expect(after.entries.length - 1).toBeGreaterThanOrEqual(granted);
    expect(after.entries.length - 1).toBeLessThanOrEqual(granted + 2);
    expect(after.entries[0]).toEqual(entry("before", 5));
    await after.close();
    expect(JSON.parse(await readFile(path, "utf8"))).toHaveProperty("checksum");
  });

  it("refuses numbers that are no steps and no budget", async () => {
    const ledger = await openLedger(memoryStorage(), "ledger.json");
    await expect(
      ledger.reserve(entry("a", 0.5, { samplingRate: 0, noiseMultiplier: Number.NaN }), { epsilon: 0, delta: 1 }),
    ).rejects.toMatchObject({
      code: "bad-option",
      message: expect.stringMatching(/sampling rate[\s\S]*noise multiplier[\s\S]*steps[\s\S]*epsilon[\s\S]*delta/),
    });
    expect(ledger.entries).toEqual([]);
  });
});
