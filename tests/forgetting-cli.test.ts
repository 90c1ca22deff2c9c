import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { jsonLines, root, scion } from "./helpers/cli.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let files: readonly string[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-forgetting-"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  files = ["first", "second", "texts"].map((name) => join(folder, `${name}.jsonl`));
  for (const [i, file] of files.entries()) await writeFile(file, rows.slice(12 * i, 12 * i + 12).join("\n"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("continual gives every loss after every task, and eval says the same of the last", async () => {
  const [first = "", second = "", texts = ""] = files;
  const output = join(folder, "run");
  const settings = ["--max-steps", "2", "--batch-size", "4", "--rank", "2", "--learning-rate", "0.02"];
  const flags = ["-m", model, "-d", first, "--then", second, "--base-text", texts, ...settings, "-o", output];
  const { code, stdout } = await scion(["continual", ...flags, "--between", "apart"]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/forgetting/);
  const result = JSON.parse(await readFile(join(output, "continual.json"), "utf8"));
  expect(result).toMatchObject({
    between: "apart",
    stages: [{ losses: [expect.any(Number), expect.any(Number)] }, {}],
  });
  const again = await scion(["continual", ...flags, "--between", "apart", "--resume"]);
  expect(again.code).toBe(0);
  expect(JSON.parse(await readFile(join(output, "continual.json"), "utf8"))).toEqual(result);

  const adapter = join(output, "2-second", "adapter");
  const run = await scion(["eval", "-m", model, "-a", adapter, "-d", second, "--base-text", texts, "--json"]);
  expect(run.code).toBe(0);
  const [measured] = jsonLines(run.stdout);
  expect(measured?.["forgetting"]).toMatchObject({ forgetting: expect.closeTo(result.stages[1].forgetting, 4) });
  const without = await scion(["eval", "-m", model, "-d", second, "--base-text", texts]);
  expect(without.code).toBe(2);
}, 120_000);
