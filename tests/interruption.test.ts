import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { jsonLines, root, startScion } from "./helpers/cli.ts";
import { untilListening } from "./helpers/signals.ts";

let folder: string;
let uninterrupted: readonly Record<string, unknown>[];
const steps = 24;

function start(name: string, ...more: readonly string[]): ReturnType<typeof startScion> {
  const files = ["-m", `${root}assets/quickstart/model`, "-d", `${root}assets/quickstart/heldout.jsonl`];
  const settings = ["--max-steps", `${steps}`, "--batch-size", "4", "--checkpoint-every", "2", "--dropout", "0.1"];
  return startScion("tune", ...files, ...settings, "--learning-rate", "1e-3", "-o", join(folder, name), ...more);
}

const metrics = (name: string): readonly Record<string, unknown>[] => {
  const path = join(folder, name, "metrics.jsonl");
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  return jsonLines(text.slice(0, text.lastIndexOf("\n") + 1));
};

const stepsDone = (name: string): number => Number(metrics(name).at(-1)?.["step"] ?? 0);

async function until(condition: () => boolean, ended: Promise<unknown>): Promise<void> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  while (!condition() && !over) await new Promise((resolve) => setTimeout(resolve, 5));
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-kill-"));
  const { ended } = start("whole");
  expect((await ended).code).toBe(0);
  uninterrupted = metrics("whole");
  expect(uninterrupted.length).toBe(steps);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("a run that is cut off", () => {
  it("goes on to the same losses, bit for bit, after kill -9 at several moments", async () => {
    let kills = 0;
    for (const moment of [1, 4, 5, 11, 16]) {
      const { child, ended } = start(
        "killed",
        ...(existsSync(join(folder, "killed/checkpoint.safetensors")) ? ["--resume"] : []),
      );
      await until(() => stepsDone("killed") >= moment, ended);
      // Not always between two steps: the kill comes at a moment of its own.
      await new Promise((resolve) => setTimeout(resolve, moment * 7));
      if (child.kill("SIGKILL")) kills++;
      await ended;
      if (!existsSync(join(folder, "killed/checkpoint.safetensors")))
        await rm(join(folder, "killed"), { recursive: true, force: true });
    }
    expect(kills).toBeGreaterThan(3);
    const { ended } = start(
      "killed",
      ...(existsSync(join(folder, "killed/checkpoint.safetensors")) ? ["--resume"] : []),
    );
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(0);
    expect(metrics("killed")).toEqual(uninterrupted);
    const adapter = (name: string): Buffer => readFileSync(join(folder, name, "adapter/adapter_model.safetensors"));
    expect(adapter("killed").equals(adapter("whole"))).toBe(true);
  });

  it("saves and stops at the first Ctrl-C, and goes on to the same losses", async () => {
    const { child, ended } = start("stopped");
    await until(() => stepsDone("stopped") >= 3, ended);
    child.kill("SIGINT");
    const { code, stdout } = await ended;
    expect(code).toBe(130);
    expect(stdout).toContain("--resume");
    expect(stepsDone("stopped")).toBeLessThan(steps);
    const { ended: resumed } = start("stopped", "--resume");
    expect((await resumed).code).toBe(0);
    expect(metrics("stopped")).toEqual(uninterrupted);
  });

  it("saves and stops when its terminal goes away, though nobody reads what it says", async () => {
    const { child, ended } = start("hung-up");
    await until(() => stepsDone("hung-up") >= 3, ended);
    child.stdout?.destroy();
    child.stderr?.destroy();
    child.kill("SIGHUP");
    expect((await ended).code).toBe(130);
    expect(existsSync(join(folder, "hung-up/checkpoint.safetensors"))).toBe(true);
    const { ended: resumed } = start("hung-up", "--resume");
    expect((await resumed).code).toBe(0);
    expect(metrics("hung-up")).toEqual(uninterrupted);
  });

  it("leaves at once at the second Ctrl-C, without an abort, with a checkpoint that resumes", async () => {
    // In the middle of updates: a worker that is ended there used to abort.
    for (const [i, delay] of [1, 15, 40, 80].entries()) {
      const { child, ended } = start("left", ...(i === 0 ? [] : ["--resume"]));
      await untilListening(child); // what an earlier part wrote stands there from the start
      const before = stepsDone("left");
      await until(() => stepsDone("left") > Math.max(3, before), ended);
      child.kill("SIGINT");
      setTimeout(() => child.kill("SIGINT"), delay);
      const { code, stderr } = await ended;
      // A step that takes longer than a second is ended by the signal itself, which a shell tells as 130 too.
      expect(child.signalCode === "SIGINT" ? 130 : code, stderr).toBe(130);
      expect(stderr).not.toMatch(/abort|terminate|error|closed|bug/i);
    }
    const { ended: resumed } = start("left", "--resume");
    expect((await resumed).code).toBe(0);
    expect(metrics("left")).toEqual(uninterrupted);
  });
});
