// Loaded before a command (`node --import`): writes the most memory that its process had, and the seconds that processors worked
// for it, to the file that SCION_PEAK names.
import { writeFileSync } from "node:fs";
import { isMainThread } from "node:worker_threads";

if (isMainThread && process.env.SCION_PEAK) {
  process.on("exit", () => {
    const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
    writeFileSync(process.env.SCION_PEAK, `${1024 * maxRSS} ${(userCPUTime + systemCPUTime) / 1e6}`);
  });
}
