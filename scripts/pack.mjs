// `npm run pack [folder]`: the tarball as it is published, of a fresh build, without a look at what lies in dist. Prints its path.
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const destination = resolve(process.argv[2] ?? ".");
const compiler = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
const staging = mkdtempSync(join(tmpdir(), "scion-pack-"));

function run(command, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: "utf8" });
  if (status === 0) return stdout;
  console.error(error?.message ?? `${stdout}\n${stderr}`);
  rmSync(staging, { recursive: true, force: true });
  process.exit(1);
}

run(process.execPath, [compiler, "-p", "tsconfig.build.json", "--outDir", join(staging, "dist")], root);
const { files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const copied = files.map((path) => path.split("/")[0]).filter((path) => path !== "dist");
for (const path of ["package.json", "README.md", "LICENSE", ...copied])
  cpSync(join(root, path), join(staging, path), { recursive: true });
const npm = process.platform === "win32" ? "npm.cmd" : "npm";
const packed = run(npm, ["pack", "--json", "--ignore-scripts", "--pack-destination", destination], staging);
rmSync(staging, { recursive: true, force: true });
console.log(join(destination, JSON.parse(packed)[0].filename));
