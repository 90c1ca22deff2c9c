import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { jsonLines, root, scion } from "./helpers/cli.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let data: string;
let adapter: string;
let compare: string[];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-diagnose-cli-"));
  data = join(folder, "train.jsonl");
  const rows = await readFile(`${root}assets/quickstart/train.jsonl`, "utf8");
  await writeFile(data, rows.split("\n").slice(0, 16).join("\n"));
  const run = join(folder, "run");
  const options = ["--rank", "1", "--alpha", "64", "--learning-rate", "0.02", "--max-steps", "6", "--batch-size", "4"];
  await scion(["tune", "-m", model, "-d", data, "-o", run, ...options]);
  adapter = join(run, "adapter");
  compare = ["--base", model, "--adapter", adapter, "--cache", join(folder, "cache")];
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("says what tuning did, and writes a report, a page and pictures", async () => {
  const out = join(folder, "diagnosis");
  const { code, stdout } = await scion(["diagnose", ...compare, "--eps", "0.6", "-o", out]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/\d+ intruders in \d+ matrices .*k 10, eps 0.6, left vectors/);
  expect(stdout).toMatch(/effective rank is 1\.00 on average/);
  const report = JSON.parse(readFileSync(join(out, "diagnosis.json"), "utf8"));
  expect(report).toMatchObject({
    k: 10,
    eps: 0.6,
    side: "left",
    total: expect.any(Number),
    baseHash: expect.any(String),
  });
  expect(report.total).toBeGreaterThan(0);
  const page = readFileSync(join(out, "report.html"), "utf8");
  expect(page).toContain(`${report.total} intruders`);
  expect(page.match(/<svg /g)?.length).toBeGreaterThan(4);
  for (const picture of ["counts", "similarity", "spectra"]) {
    expect(readFileSync(join(out, `${picture}.svg`), "utf8")).toMatch(/^<svg .*<\/svg>\n$/s);
  }
  expect(existsSync(join(out, "progress.jsonl"))).toBe(false);
  const [again] = jsonLines((await scion(["diagnose", ...compare, "--eps", "0.6", "--json"])).stdout);
  expect(again).toMatchObject({ total: report.total, baseHash: report.baseHash });
});

it("mends, measuring the task and forgetting before and after", async () => {
  const out = join(folder, "mended");
  const texts = join(folder, "base.jsonl");
  const rows = await readFile(`${root}assets/quickstart/heldout.jsonl`, "utf8");
  await writeFile(texts, rows.split("\n").slice(0, 8).join("\n"));
  const measures = ["--data", data, "--base-text", texts];
  const { code, stdout } = await scion(["mend", ...compare, "--eps", "0.6", "--mode", "all", ...measures, "-o", out]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/task loss +[\d.]+ → [\d.]+ nats/);
  expect(stdout).toMatch(/forgetting +-?[\d.]+ → -?[\d.]+ nats/);
  expect(stdout).toMatch(/kept 0.75 of \d+ intruder/);
  const written = join(folder, "mended-adapter");
  const [record] = jsonLines(
    (await scion(["mend", ...compare, "--eps", "0.6", "--to", "peft", "-o", written, "--json"])).stdout,
  );
  expect(record).toMatchObject({ form: "peft", error: 0, written });
  // What was written is what was measured.
  const loss = async (...use: string[]): Promise<unknown> =>
    jsonLines((await scion(["eval", ...use, "-d", data, "--no-exact-match", "--json"])).stdout)[0]?.["loss"];
  expect(await loss("-m", out)).toBeCloseTo(Number(/task loss +[\d.]+ → ([\d.]+)/.exec(stdout)?.[1]), 3);
});

it("says what is wrong with options and files", async () => {
  const failure = async (...args: string[]): Promise<unknown[]> => {
    const { code, stdout } = await scion([...args, "--json"]);
    return [code, (jsonLines(stdout).at(-1)?.["error"] as { code: string } | undefined)?.code];
  };
  expect(await failure("diagnose", "--base", model)).toEqual([2, "bad-option"]);
  expect(await failure("diagnose", ...compare, "--eps", "2")).toEqual([2, "bad-option"]);
  expect(await failure("mend", ...compare, "--lambda", "-1", "-o", join(folder, "none"))).toEqual([2, "bad-option"]);
  expect(await failure("diagnose", "--base", model, "--adapter", join(folder, "nowhere"))).toEqual([
    2,
    "file-not-found",
  ]);
  const { code, stderr } = await scion(["diagnose", ...compare, "--side", "upper"]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("left, right")]);
});
