import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { killAtRandom } from "./helpers/kills.ts";

/*
 * Kills at random moments of tuning, saving and exporting. KILLS=100 makes as many; SCION="node dist/cli/main.js" kills
 * what was built, which starts faster.
 */
const kills = Number(process.env["KILLS"] ?? 4);
const command = process.env["SCION"]?.split(" ");

it(`${kills} kills at random moments lose nothing, and leave no folder half there`, async () => {
  const folder = await mkdtemp(join(tmpdir(), "scion-kills-"));
  try {
    const { byPhase, problems } = await killAtRandom({
      ...{ kills, folder, seed: 11 },
      ...(command === undefined ? {} : { command }),
    });
    if (kills > 10) console.log(JSON.stringify(byPhase));
    expect(problems).toEqual([]);
    expect(Object.values(byPhase).reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(kills);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}, 3_600_000);
