import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { root } from "./helpers/cli.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-examples-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Run an example with the package as it is built, and the example's output folder put elsewhere. */
async function runExample(name: string, outputFolder: string): Promise<string> {
  const code = await readFile(`${root}examples/${name}`, "utf8");
  const file = join(root, "examples", `.${process.pid}-${name}`);
  await writeFile(file, code.replaceAll(outputFolder, join(folder, outputFolder)));
  try {
    const { status, stdout, stderr } = spawnSync(process.execPath, [file], { cwd: root, encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
    return stdout;
  } finally {
    await rm(file);
  }
}

it("the README's example is the file that this test runs", async () => {
  const code = await readFile(`${root}examples/tune.mjs`, "utf8");
  expect(await readFile(`${root}README.md`, "utf8")).toContain(`<!-- examples/tune.mjs -->\n\`\`\`js\n${code}\`\`\``);
  expect(await runExample("tune.mjs", "runs/example")).toMatch(/validation loss \d/);
  expect(readdirSync(join(folder, "runs/example/adapter"))).toContain("adapter_model.safetensors");
  expect(existsSync(join(folder, "runs/example/web/onnx/model.onnx"))).toBe(true);
});

it("the quickstart goes from under 5 % to at least 90 % of unseen requests", { timeout: 600_000 }, async () => {
  const printed = await runExample("quickstart.mjs", "quickstart-out");
  const [before, after] = [...printed.matchAll(/tuning: ([\d.]+) % of the unseen/g)].map(([, percent]) =>
    Number(percent),
  );
  expect(before).toBeLessThan(5);
  expect(after).toBeGreaterThanOrEqual(90);
  expect(printed).toMatch(/step 500\/500 {2}loss [\d.]+ {2}\d+ tokens\/s/);
  expect(readdirSync(join(folder, "quickstart-out")).sort()).toEqual(["adapter", "merged", "run", "web"]);
});
