// `npm run quickstart`: install what is missing, build, then run examples/quickstart.mjs. Needs Node and nothing else.
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const npm = process.platform === "win32" ? "npm.cmd" : "npm";
const installed = `${root}node_modules/.package-lock.json`;

function run(command, args) {
  const { status, error } = spawnSync(command, args, {
    cwd: root,
    stdio: "inherit",
    shell: process.platform === "win32",
  });
  if (error) console.error(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(installed) || statSync(installed).mtimeMs < statSync(`${root}package-lock.json`).mtimeMs) {
  console.log("Installing packages…");
  run(npm, ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
}
console.log("Building…");
run(npm, ["run", "--silent", "build"]);
run(process.execPath, [`${root}examples/quickstart.mjs`]);
