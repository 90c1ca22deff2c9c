import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { runProgram } from "../src/cli/program.ts";
import { noiseFor, privacySpent } from "../src/index.ts";
import { openLedger } from "../src/privacy/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-privacy-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Run a command line in this process. */
async function scion(args: readonly string[]): Promise<{ readonly code: number; readonly stdout: string }> {
  let stdout = "";
  const spy = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  const quiet = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    return { code: await runProgram(args), stdout };
  } finally {
    spy.mockRestore();
    quiet.mockRestore();
  }
}

const asked = "--sampling-rate 0.01 --steps 1000".split(" ");
const json = async (...args: readonly string[]): Promise<Record<string, never>> => {
  const { code, stdout } = await scion(["privacy", ...args, "--json"]);
  expect([code, args.join(" "), stdout.split("\n").length]).toEqual([0, args.join(" "), 2]);
  return JSON.parse(stdout) as Record<string, never>;
};
const refusal = async (...args: readonly string[]): Promise<{ code: string; message: string }> => {
  const { code, stdout } = await scion(["privacy", ...args, "--json"]);
  expect([args.join(" "), code]).toEqual([args.join(" "), 2]);
  return (JSON.parse(stdout) as { error: { code: string; message: string } }).error;
};

describe("scion privacy", () => {
  it("says what steps cost, by both accountants", async () => {
    const told = await json(...asked, "--noise", "1.1", "--delta", "1e-5");
    expect(told).toMatchObject({ rdp: expect.closeTo(1.7117701, 6), prv: expect.closeTo(1.5254726, 5) });
    expect(told).toMatchObject({ order: 9.6, delta: 1e-5, lower: expect.closeTo(1.5052584, 5) });
    expect(await json(...asked, "--noise", "1.1")).toEqual(told); // the usual delta
    const { stdout } = await scion(["privacy", ...asked, "--noise", "1.1"]);
    expect(stdout).toMatch(
      /1000 steps at sampling rate 0\.01 cost epsilon .*1\.525.* \(PRV\), 1\.712 \(RDP, order 9\.6\)/,
    );
  });

  it("says which noise a budget takes", async () => {
    const { noise } = await json("--sampling-rate", "0.01", "--steps", "500", "--epsilon", "6");
    expect(noise).toEqual({ rdp: expect.closeTo(0.62958, 4), prv: expect.closeTo(0.59387, 4) });
    // By RDP no noise goes below what its largest order allows.
    const tight = await json(...asked, "--epsilon", "0.05");
    expect(tight).toMatchObject({ noise: { rdp: null, prv: expect.any(Number) } });
    expect(await refusal(...asked, "--epsilon", "0.005")).toMatchObject({ code: "budget-too-small" });
  });

  it("counts what a ledger holds, alone and with more steps", async () => {
    const path = join(folder, "ledger.json");
    const ledger = await openLedger(nodeStorage, path);
    const entry = { id: "round 1", samplingRate: 0.01, noiseMultiplier: 1.1, steps: 400 };
    await ledger.reserve(entry, { epsilon: 3, delta: 1e-5 });
    await ledger.close();
    expect(await json("--ledger", path)).toMatchObject(privacySpent({ spends: [entry] }));
    const whole = await json("--ledger", path, "--sampling-rate", "0.01", "--steps", "600", "--noise", "1.1");
    expect(whole).toMatchObject({ prv: expect.closeTo(1.5254726, 5), rdp: expect.closeTo(1.7117701, 6) });
    const rest = await json("--ledger", path, "--sampling-rate", "0.01", "--steps", "600", "--epsilon", "1.525473");
    expect(rest).toMatchObject({ noise: { prv: expect.closeTo(1.1, 3) } });
    expect(await refusal("--ledger", path, ...asked, "--epsilon", "0.2")).toMatchObject({ code: "budget-too-small" });

    const marked = await openLedger(nodeStorage, path);
    await marked.reserve({ ...entry, id: "a test", notPrivate: true }, { epsilon: 3, delta: 1e-5 });
    await marked.close();
    expect(await json("--ledger", path)).toMatchObject({ notPrivate: true });
    expect((await scion(["privacy", "--ledger", path])).stdout).toMatch(/round 1: 400 steps[\s\S]*not private/);

    writeFileSync(path, readFileSync(path, "utf8").replace("400", "4"));
    expect(await refusal("--ledger", path)).toMatchObject({ code: "ledger-damaged" });
    expect(await refusal("--ledger", join(folder, "nothing.json"))).toMatchObject({ code: "file-not-found" });
  });

  it("refuses what is missing, would do nothing or is no number of privacy", async () => {
    const cases: readonly (readonly [string, RegExp])[] = [
      ["", /--sampling-rate, --steps, --noise/],
      ["--steps 5 --noise 1", /need --sampling-rate/],
      ["--epsilon 3", /--epsilon need --sampling-rate, --steps/],
      ["--sampling-rate 0.1 --steps 5 --noise 1 --epsilon 3", /--noise would do nothing/],
      ["--sampling-rate 0.1 --steps 5 --noise 0", /--noise 0/],
      ["--sampling-rate 0 --steps 5 --noise 1", /sampling rate must be above 0/],
      ["--sampling-rate 2 --steps 5 --noise -1 --delta 1", /sampling rate[\s\S]*noise multiplier[\s\S]*delta/],
      ["--sampling-rate 0.1 --steps 0 --epsilon 3", /steps must be an integer that is at least 1/],
      ["--sampling-rate 0.1 --steps 5 --epsilon -3", /epsilon must be a number above 0/],
      ["--sampling-rate x --steps 1.5 --noise 1", /not a/],
    ];
    for (const [line, message] of cases) {
      const error = await refusal(...line.split(" ").filter((word) => word !== ""));
      expect([line, error.code]).toEqual([line, "bad-option"]);
      expect(error.message).toMatch(message);
    }
    expect(await refusal(...asked, "--noise", "1", "--delta", "1e-13")).toMatchObject({ code: "delta-too-small" });
  });
});

describe("the same from code", () => {
  it("is two functions", () => {
    const spends = [{ samplingRate: 0.01, noiseMultiplier: 1.1, steps: 1000 }];
    expect(privacySpent({ spends })).toMatchObject({ rdp: expect.closeTo(1.7117701, 6), delta: 1e-5 });
    const budget = { epsilon: 3, samplingRate: 0.01, steps: 500 };
    expect(noiseFor({ ...budget, accountant: "rdp" })).toBeCloseTo(0.79795, 4);
    expect(noiseFor(budget)).toBeCloseTo(0.7436, 3);
    expect(noiseFor({ ...budget, accountant: "rdp", before: spends })).toBeCloseTo(0.8387, 3);
    expect(() => noiseFor({ ...budget, accountant: "gdp" as "rdp" })).toThrow(/accountant is "gdp"/);
    expect(() => privacySpent({ spends: [{ ...spends[0], step: 1 } as never] })).toThrow(/"step" \(nearest: steps\)/);
  });
});
