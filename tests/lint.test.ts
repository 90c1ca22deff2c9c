import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { root } from "./helpers/root.ts";

/* The rule of scripts/lint, on lines as they once were in this code and on others that look like them. */

const refused = [
  "export const a = [...tensor.data];",
  "export const a = [1, ...tensor.data.subarray(2, 5)];",
  "export const a = [...(tensor.data as Float32Array)];",
  "export const a = Math.max(...tensor.data);",
  "export const a = Array.from(tensor.data, Number);",
  "export const a = Array.from(tensor.data as Float32Array);",
  "chunks.push(...bytes);",
  "export const a = [...codes, ...scales];",
];
const allowed = [
  "export const a = Float32Array.from(tensor.data);",
  "export const a = tensor.data.subarray(0, 2);",
  "export const a = [...tensor.shape];",
  "export const a = Array.from({ length: 3 }, (_, i) => tensor.data[i]);",
  "export const a = [...weights.values()];",
];

const plugin = "./scripts/lint/no-number-arrays.grit";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-lint-"));
  const settings = { root: true, plugins: [join(root, plugin)], linter: { rules: { recommended: false } } };
  await writeFile(join(folder, "biome.json"), JSON.stringify(settings));
});
afterAll(() => rm(folder, { recursive: true }));

it("lint refuses arrays of numbers of what grows with a model, and nothing else", async () => {
  const lines = [...refused, ...allowed];
  await writeFile(join(folder, "sample.ts"), `${lines.join("\n")}\n`);
  const biome = join(root, "node_modules/@biomejs/biome/bin/biome");
  const args = [biome, "lint", "--reporter=github", "sample.ts"];
  const { stdout } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
  const numbers = [...stdout.matchAll(/title=plugin.*?line=(\d+)/g)].map(([, line]) => Number(line));
  expect([...new Set(numbers)].map((line) => lines[line - 1])).toEqual(refused);
});

it("the rule is on where weights are read, computed with and written", async () => {
  const { overrides } = JSON.parse(await readFile(join(root, "biome.json"), "utf8")) as {
    readonly overrides: readonly { readonly includes: readonly string[]; readonly plugins?: readonly string[] }[];
  }; // biome has checked it
  const rooms = overrides.filter(({ plugins }) => plugins?.includes(plugin)).flatMap(({ includes }) => includes);
  for (const room of [
    "io",
    "models",
    "methods",
    "quant",
    "compress",
    "export",
    "linalg",
    "decode",
    "diagnose",
    "train",
  ])
    expect(rooms).toContain(`src/${room}/**`);
});
