// `npm run verify`: install, lint, type-check, build, and every test, in order of cost. Stops at the first failure.
import { spawnSync } from "node:child_process";

const npm = process.platform === "win32" ? "npm.cmd" : "npm";
const npx = process.platform === "win32" ? "npx.cmd" : "npx";
const steps = [
  ["install", npm, ["ci", "--no-audit", "--no-fund"]],
  ["lint", npx, ["biome", "check", "."]],
  ["types", npx, ["tsc", "--noEmit"]],
  ["build", npm, ["run", "build"]],
  ["tests", npx, ["vitest", "run"]],
];

for (const [name, command, args] of steps) {
  const started = performance.now();
  console.log(`\n— ${name}: ${command} ${args.join(" ")}`);
  const { status, error } = spawnSync(command, args, { stdio: "inherit", shell: process.platform === "win32" });
  if (error) console.error(error.message);
  if (status !== 0) {
    console.error(`\n${name} failed.`);
    process.exit(status ?? 1);
  }
  console.log(`— ${name}: done in ${((performance.now() - started) / 1000).toFixed(1)} s`);
}
