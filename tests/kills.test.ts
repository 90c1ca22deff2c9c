import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { killAtRandom } from "./helpers/kills.ts";

/*
 * Kills at random moments of every command and form of export that writes: loading, tuning, saving, exporting. KILLS=100 makes as many, SEED=12 makes others.
 */
const kills = Number(process.env["KILLS"] ?? 4);
const seed = Number(process.env["SEED"] ?? 11);

it(`${kills} kills at random moments lose nothing, and leave no folder half there`, async () => {
  const folder = await mkdtemp(join(tmpdir(), "scion-kills-"));
  try {
    const { byPhase, byCommand, problems } = await killAtRandom({ kills, folder, seed });
    if (kills > 10) console.log(JSON.stringify({ byPhase, byCommand }));
    expect(problems).toEqual([]);
    expect(Object.values(byPhase).reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(kills);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}, 3_600_000);
