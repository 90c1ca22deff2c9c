import { existsSync, readFileSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { jsonLines, root, scion } from "./helpers/cli.ts";
import { golden } from "./helpers/golden.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let data: string;
let moods: string;
let bert: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-methods-cli-"));
  data = join(folder, "train.jsonl");
  const rows = await readFile(`${root}assets/quickstart/train.jsonl`, "utf8");
  await writeFile(data, rows.split("\n").slice(0, 24).join("\n"));
  moods = join(folder, "moods.csv");
  await writeFile(moods, "text,label\nthe cat sat,glad\nAda codes,sad\nthe dog sat on the mat,glad\nwell,sad\n");
  bert = join(folder, "bert");
  await cp(golden("encoders/bert-base"), bert, { recursive: true });
  await cp(golden("encoder-tokenizers/wordpiece"), bert, { recursive: true });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const read = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, "utf8"));

async function tune(name: string, ...flags: readonly string[]): Promise<string> {
  const out = join(folder, name);
  const given = ["tune", "-o", out, "--learning-rate", "5e-3", "--max-steps", "4", "--batch-size", "2", ...flags];
  const { code, stderr } = await scion(given);
  expect(stderr).toMatch(/\d\/4 {2}loss/);
  expect(code).toBe(0);
  return out;
}

describe("a method is a flag of tune", () => {
  it("adalora prunes to its target, and draws what is left", async () => {
    const out = await tune(
      "adalora",
      ...["-m", model, "-d", data, "--method", "adalora", "--initial-rank", "4", "--target-rank", "2"],
      ...["--target-modules", "q_proj,v_proj"],
    );
    const config = read(join(out, "adapter/adapter_config.json"));
    expect(config).toMatchObject({ peft_type: "ADALORA", init_r: 4, target_r: 2, total_step: 4 });
    const kept = Object.values(config["rank_pattern"] as Record<string, boolean[]>);
    expect(kept.flat().filter(Boolean)).toHaveLength(2 * kept.length);
    expect(readFileSync(join(out, "ranks.svg"), "utf8")).toContain("<svg");
    const steps = jsonLines(readFileSync(join(out, "metrics.jsonl"), "utf8")).filter(({ kind }) => kind === "step");
    expect(steps.at(-1)).toMatchObject({ measures: { budget: 2 * kept.length } });
  });

  it("paca leaves PEFT's columns, which eval reads", async () => {
    const out = await tune("paca", ..."--method paca --rank 4 --select norm".split(" "), "-m", model, "-d", data);
    expect(read(join(out, "adapter/adapter_config.json"))).toMatchObject({ peft_type: "PACA", r: 4, paca_alpha: 8 });
    const judged = await scion(["eval", "--json", "-m", model, "-a", join(out, "adapter"), "-d", data]);
    expect(judged.code).toBe(0);
    expect(jsonLines(judged.stdout).at(-1)).toMatchObject({ loss: expect.any(Number) });
  });

  it("compacter leaves AdapterHub's folder, and says what does not divide", async () => {
    const flags = ["--method", "compacter", "-m", model, "-d", data];
    const out = await tune("compacter", ...flags, "--reduction", "8");
    const { config } = read(join(out, "adapter/adapter_config.json"));
    expect(config).toMatchObject({ phm_dim: 4, shared_phm_rule: true, reduction_factor: 8 });
    expect(existsSync(join(out, "adapter/adapter.safetensors"))).toBe(true);
    const bad = await scion(["tune", ...flags, "-o", join(folder, "no"), "--terms", "5"]);
    expect(bad.code).toBe(2);
    expect(bad.stderr).toMatch(/5 terms do not divide both \d+ \(the hidden size\) and \d+ \(the bottleneck\)/);
  });

  it("schedules that do not fit the run are refused before it", async () => {
    const flags = ["--method", "adalora", "-m", model, "-d", data, "-o", join(folder, "no")];
    const long = await scion(["tune", ...flags, "--max-steps", "4", "--budget-warmup", "3", "--budget-final", "2"]);
    expect([long.code, long.stderr]).toEqual([2, expect.stringContaining("take 3 and 2 updates, but the run has 4")]);
    const full = await scion(["tune", ...flags, "--max-steps", "4", "--initial-rank", "4", "--target-rank", "4"]);
    expect(full.stderr).toContain("targetRank is 4, but it must be below initialRank");
  });
});

describe("a task is a flag of tune", () => {
  it.each(["lora", "compacter++"])("sequences are classified by a new head, tuned by %s", async (method) => {
    const own = method === "lora" ? ["--rank", "2"] : ["--reduction", "4", "--placement", "normed"];
    const flags = ["-m", bert, "-d", moods, "--task", "sequence-classification", "--method", method, ...own];
    const out = await tune(`moods-${method}`, ...flags);
    const adapter = join(out, "adapter");
    expect(read(join(adapter, "task.json"))).toEqual({ task: "sequence-classification", labels: ["glad", "sad"] });
    const judged = await scion(["eval", "--json", "-m", bert, "-a", adapter, "-d", moods]);
    expect(judged.code).toBe(0);
    expect(jsonLines(judged.stdout).at(-1)).toMatchObject({ measures: { accuracy: expect.any(Number) } });
  });
});
