import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { jsonLines, root, scion } from "./helpers/cli.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let data: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-attention-cli-"));
  data = join(folder, "texts.txt");
  await writeFile(data, "Once upon a time there was a small shoot on an old tree. ".repeat(40));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("looks at every head, and writes a report, a page and pictures", async () => {
  const out = join(folder, "out");
  const args = ["diagnose", "--attention", "-m", model, "-d", data, "--length", "64", "--texts", "2"];
  const { code, stdout, stderr } = await scion([...args, "-o", out]);
  expect(code, stderr).toBe(0);
  expect(stdout).toMatch(/No head qualifies|of \d+ key heads qualify/);
  const report = JSON.parse(readFileSync(join(out, "attention.json"), "utf8"));
  const { num_hidden_layers: layers, num_attention_heads: heads } = JSON.parse(
    readFileSync(join(model, "config.json"), "utf8"),
  );
  expect(report).toMatchObject({ length: 64, texts: 2, weightError: 0.03 });
  expect(report.heads).toHaveLength(layers * heads);
  expect(readFileSync(join(out, "report.html"), "utf8").match(/<svg /g)).toHaveLength(2);
  for (const picture of ["heads", "degrees"])
    expect(readFileSync(join(out, `${picture}.svg`), "utf8")).toMatch(/^<svg .*<\/svg>\n$/s);

  const wide = jsonLines((await scion([...args, "--weight-error", "0.99", "--json"])).stdout).at(-1);
  expect(wide).toMatchObject({ weightError: 0.99 });
});

it("names what is missing and what would do nothing", async () => {
  const failure = async (...args: string[]): Promise<readonly [number | null, string]> => {
    const { code, stdout } = await scion(["diagnose", ...args, "--json"]);
    const { error } = jsonLines(stdout).at(-1) as { error: { code: string; message: string } };
    return [code, `${error.code}: ${error.message}`];
  };
  const attention = ["--attention", "-m", model, "-d", data];
  const [code, message] = await failure("--attention", "--eps", "0.5", "--k", "3");
  expect(code).toBe(2);
  for (const part of ["--eps would do nothing", "--k would", "--model is missing", "--data is", "--length is"])
    expect(message).toContain(part);
  expect((await failure("-b", model, "--length", "8"))[1]).toContain("--length would do nothing without --attention");
  expect((await failure())[1]).toContain("--base is missing");
  expect((await failure(...attention, "--length", "100000"))[1]).toMatch(/too-little-data: The data hold \d+ tokens/);
  expect((await failure(...attention, "--length", "2"))[1]).toContain("bad-option");
  expect((await failure(...attention, "--length", "8", "--texts", "9"))[1]).toContain("8 or fewer");
  expect((await failure(...attention, "--length", "8", "--weight-error", "2"))[1]).toContain("weightError is 2");
});
