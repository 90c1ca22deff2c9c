// Loaded before a command (`node --import`): writes the most memory that its process had to the file that SCION_PEAK names.
import { writeFileSync } from "node:fs";
import { isMainThread } from "node:worker_threads";

if (isMainThread && process.env.SCION_PEAK) {
  process.on("exit", () => writeFileSync(process.env.SCION_PEAK, String(1024 * process.resourceUsage().maxRSS)));
}
