import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { configSchema } from "../src/cli/config.ts";
import { commands } from "../src/cli/index.ts";
import { define } from "../src/cli/tune.ts";
import { jsonLines, root, runHere, scion } from "./helpers/cli.ts";
import { startFakeHub } from "./helpers/fake-hub.ts";

const model = `${root}assets/quickstart/model`;
let folder: string;
let data: string;
let run: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-cli-"));
  data = join(folder, "train.jsonl");
  run = join(folder, "run");
  const rows = await readFile(`${root}assets/quickstart/train.jsonl`, "utf8");
  await writeFile(data, rows.split("\n").slice(0, 64).join("\n"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("from a model and data to files that run elsewhere", () => {
  it("tunes, showing the trained part of a sample, and leaves an adapter", async () => {
    const { code, stdout, stderr } = await scion(
      ["tune", "-m", model, "-d", data, "-o", run, "--rank", "4", "--max-steps", "6", "--batch-size", "4"].concat([
        "--learning-rate",
        "5e-3",
        "--validation",
        "8",
        "--target-modules",
        "q_proj,v_proj",
      ]),
    );
    expect(stderr).toMatch(/\d\/6 {2}loss/);
    expect(code).toBe(0);
    expect(stdout).toMatch(/56 messages examples/);
    expect(stdout).toContain("⟦");
    expect(stdout).toMatch(/Training 6,144|Training [\d,]+ of [\d,]+ parameters/);
    expect(stdout).toContain("scion chat");
    const config = JSON.parse(readFileSync(join(run, "adapter/adapter_config.json"), "utf8"));
    expect(config).toMatchObject({ peft_type: "LORA", r: 4, target_modules: ["q_proj", "v_proj"] });
    expect(
      jsonLines(readFileSync(join(run, "metrics.jsonl"), "utf8")).filter(({ kind }) => kind === "step").length,
    ).toBe(6);
    expect(JSON.parse(readFileSync(join(run, "run.json"), "utf8"))).toMatchObject({ method: "lora", maxSteps: 6 });
  });

  it("takes options from a file, flags over it, and writes what was decided in the same words", async () => {
    const config = join(folder, "run.yaml");
    await writeFile(
      config,
      `model: ${model}\ndata: ${data}\nmax_steps: 9\nbatch-size: 4\nrslora: true\ntarget-modules: [q_proj, v_proj]\nrank-pattern:\n  q_proj: 2\n`,
    );
    const out = join(folder, "configured");
    const { code, stdout } = await scion(["tune", "--config", config, "--max-steps", "3", "-o", out]);
    expect([code, stdout.includes("update 3 of 3")]).toEqual([0, true]);
    const decided = JSON.parse(readFileSync(join(out, "run.json"), "utf8"));
    expect(decided).toMatchObject({ maxSteps: 3, batchSize: 4, rslora: true, rank: 8, targetModules: "q_proj,v_proj" });
    expect(JSON.parse(readFileSync(join(out, "adapter/adapter_config.json"), "utf8"))).toMatchObject({
      use_rslora: true,
      rank_pattern: { q_proj: 2 },
    });

    const again = join(folder, "again");
    expect((await scion(["tune", `--config=${join(out, "run.json")}`, "-o", again])).code).toBe(0);
    const losses = (at: string): unknown[] =>
      jsonLines(readFileSync(join(at, "metrics.jsonl"), "utf8")).map((line) => line["loss"]);
    expect(losses(again)).toEqual(losses(out));

    await writeFile(config, "lerning_rate: 1\nrank: many\nrslora: 3\n");
    const bad = await scion(["tune", "--config", config, "-m", model, "-d", data]);
    expect(bad.code).toBe(2);
    expect(bad.stderr).toMatch(
      /no option "lerning_rate" \(nearest: learningRate\)[\s\S]*rank: [\s\S]*rslora: 3 is not true or false/,
    );
    await writeFile(config, "- a\n- b");
    expect((await scion(["tune", "--config", config, "-m", model, "-d", data])).stderr).toContain("malformed-config");
  });

  it("lists runs, says where their options differ and draws their losses", async () => {
    const picture = join(folder, "losses.svg");
    const { code, stdout } = await scion(["runs", folder, "--picture", picture]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/configured +lora +0\.0003 +3 /);
    expect(stdout).toMatch(/Options that differ:[\s\S]*maxSteps +[\d, ]+\n/);
    expect(stdout).toMatch(/run +lora +0\.005 +6 .* at 6/);
    expect(readFileSync(picture, "utf8").match(/<polyline/g)?.length).toBeGreaterThanOrEqual(3);
    const records = jsonLines((await scion(["runs", join(folder, "configured"), "--json"])).stdout);
    expect(records).toEqual([expect.objectContaining({ folder: join(folder, "configured"), step: 3 })]);
    const none = await scion(["runs", join(folder, "nowhere")]);
    expect([none.code, none.stderr.includes("no run")]).toEqual([2, true]);
  });

  it("keeps the schema of such files beside the docs", async () => {
    const command = new Command("tune");
    await define(command);
    const written = JSON.parse(readFileSync(`${root}docs/tune.schema.json`, "utf8")) as unknown;
    expect(written, "npm run schema").toEqual(JSON.parse(JSON.stringify(configSchema(command))));
  });

  it("plans before it tunes, and reads no weights for it", async () => {
    const { code, stdout } = await scion([
      "plan",
      "-m",
      model,
      "-d",
      data,
      "--batch-size",
      "4",
      "--available",
      "0.001",
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/Trains [\d,]+ of [\d,]+ parameters/);
    expect(stdout).toMatch(/GB at the peak, 1 MB are free: it does not fit/);
    expect(stdout).toMatch(/an update, .* an epoch of 16/);
    expect(stdout).toContain("smaller model");
  });

  it("tells scripts the same as JSON, and nothing else", async () => {
    const { code, stdout } = await scion([
      "tune",
      "--json",
      "-m",
      model,
      "-d",
      data,
      "-o",
      join(folder, "json"),
      "--max-steps",
      "3",
      "--batch-size",
      "4",
    ]);
    expect(code).toBe(0);
    const lines = jsonLines(stdout);
    expect(lines.map(({ kind }) => kind)).toEqual(["data", "start", "step", "step", "step", "checkpoint", "end"]);
    expect(lines.at(-1)).toMatchObject({ ended: "finished", step: 3 });
  });

  it("answers, measures and talks with the adapter", async () => {
    const use = ["-m", model, "-a", join(run, "adapter")];
    const prompt = ["-p", "set a timer for ten minutes", "--max-new-tokens", "8"];
    const generated = await scion(["generate", ...use, ...prompt, "--json"]);
    const [answer] = jsonLines(generated.stdout);
    expect(answer).toMatchObject({ text: expect.any(String), promptTokens: expect.any(Number) });
    expect((await scion(["generate", ...use, ...prompt])).stdout.trim()).toBe(String(answer?.["text"]).trim());
    const chat = await scion(
      ["chat", ...use, "--max-new-tokens", "8"],
      "set a timer for ten minutes\n/reset\n\n/exit\n",
    );
    expect(chat.code).toBe(0);
    expect(chat.stdout.trim()).toBe(String(answer?.["text"]).trim());
    const rows = (await readFile(`${root}assets/quickstart/heldout.jsonl`, "utf8")).split("\n").slice(0, 4).join("\n");
    await writeFile(join(folder, "heldout.jsonl"), rows);
    const measured = await scion(["eval", ...use, "-d", join(folder, "heldout.jsonl"), "--json"]);
    const [result] = jsonLines(measured.stdout);
    expect(result).toMatchObject({ exactMatch: { total: 4 } });
    expect(result?.["perplexity"]).toBeCloseTo(Math.exp(result?.["loss"] as number), 6);
  });

  it("takes the folder of a run for the adapter in it, and says what such a folder holds", async () => {
    const ask = ["-p", "set a timer for ten minutes", "--max-new-tokens", "8", "-m", model, "-a"] as const;
    const [inside, whole] = [
      await runHere("generate", ...ask, join(run, "adapter")),
      await runHere("generate", ...ask, run),
    ];
    expect(whole.records).toEqual(inside.records);
    const { records } = await runHere("inspect", run);
    expect(records[0]).toMatchObject({ kind: "run", method: "lora", updates: "6", "adapter: rank": "4" });
    await expect(runHere("generate", ...ask, folder)).rejects.toMatchObject({ name: "TuneError" });
  });

  it("takes a model by its hub id, fetched once", async () => {
    const files = readdirSync(model).map((name) => [name, readFileSync(join(model, name))] as const);
    const hub = await startFakeHub(Object.fromEntries(files));
    try {
      const env = { HF_ENDPOINT: hub.url, HF_HOME: join(folder, "hf"), HF_TOKEN: "" };
      const args = ["generate", "-p", "set a timer for ten minutes", "--max-new-tokens", "8", "-m"];
      const local = await scion([...args, model]);
      const fetched = await scion([...args, "owner/model"], "", env);
      expect(fetched.stderr).toMatch(/[\d.]+ MB of [\d.]+ MB/);
      expect([fetched.code, fetched.stdout]).toEqual([0, local.stdout]);
      const offline = await scion([...args, "owner/model"], "", { ...env, HF_HUB_OFFLINE: "1" });
      expect([offline.code, offline.stdout]).toEqual([0, local.stdout]);
      const missing = await scion([...args, "owner/other", "--json"], "", env);
      expect([missing.code, jsonLines(missing.stdout)[0]]).toMatchObject([2, { error: { code: "hub-not-found" } }]);
    } finally {
      await hub.close();
    }
  });

  it("merges and exports to each form, and says what a folder or file holds", async () => {
    const use = ["-m", model, "-a", join(run, "adapter")];
    const merged = join(folder, "merged");
    expect((await scion(["merge", ...use, "-o", merged])).code).toBe(0);
    for (const form of ["transformers.js", "safetensors", "peft"]) {
      const exported = await scion(["export", ...use, "--to", form, "-o", join(folder, form), "--json"]);
      expect(jsonLines(exported.stdout)).toEqual([{ written: join(folder, form), form }]);
    }
    expect(readFileSync(join(merged, "model.safetensors"))).toEqual(
      readFileSync(join(folder, "safetensors/model.safetensors")),
    );
    expect(existsSync(join(folder, "transformers.js/onnx/model.onnx"))).toBe(true);
    const inspected = [merged, join(merged, "model.safetensors"), join(folder, "peft"), data];
    for (const path of inspected) {
      const { code, stdout } = await scion(["inspect", path, "--json"]);
      expect(code, path).toBe(0);
      expect(jsonLines(stdout)[0], path).toMatchObject({ path, kind: expect.any(String) });
    }
  });
});

describe("several adapters", () => {
  it("answer side by side, and are added up", async () => {
    const one = join(run, "adapter");
    const both = join(folder, "both");
    const adapters = ["-m", model, "-a", `one=${one}`, "-a", `two=${one}`];
    const combined = await scion(["combine", ...adapters, "--weights", "0.5,0.5", "-o", both, "--json"]);
    expect(jsonLines(combined.stdout)[0]).toMatchObject({ written: both, how: "cat" });
    const ask = ["generate", "-p", "ab", "--raw", "--max-new-tokens", "4", "--json"];
    const answers = await scion([...ask, ...adapters, "-a", both]);
    const lines = jsonLines(answers.stdout);
    expect(lines.map(({ adapter }) => adapter)).toEqual(["one", "two", "both"]);
    expect(new Set(lines.map(({ text }) => text)).size).toBe(1);
    const base = await scion([...ask, ...adapters, "--use", "none"]);
    expect(jsonLines(base.stdout)[0]?.["text"]).toEqual(
      jsonLines((await scion([...ask, "-m", model])).stdout)[0]?.["text"],
    );
    const wrong = await scion([...ask, ...adapters, "--use", "tow"]);
    expect([wrong.code, jsonLines(wrong.stdout)[0]]).toMatchObject([2, { error: { code: "unknown-adapter" } }]);
    const weights = await scion(["combine", ...adapters, "--weights", "1", "-o", both, "--json"]);
    expect([weights.code, jsonLines(weights.stdout)[0]]).toMatchObject([2, { error: { code: "bad-option" } }]);
  });
});

describe("what goes wrong", () => {
  const failure = async (...args: readonly string[]): Promise<readonly [number | null, unknown, string]> => {
    const { code, stdout } = await scion([...args, "--json"]);
    const error = jsonLines(stdout).at(-1)?.["error"] as { code: string; message: string } | undefined;
    return [code, error?.code, error?.message ?? ""];
  };
  const tuning = (...args: readonly string[]): Promise<readonly [number | null, unknown, string]> =>
    failure("tune", "-d", data, "-o", join(folder, "bad"), ...args);

  it("has a code, a message that says where, and an exit code for scripts", async () => {
    expect((await tuning("-m", "./nowhere")).slice(0, 2)).toEqual([2, "model-not-found"]);
    const missing = await failure("tune", "-m", model, "-d", join(folder, "none.jsonl"), "-o", join(folder, "bad"));
    expect(missing.slice(0, 2)).toEqual([2, "file-not-found"]);
    const bad = join(folder, "bad.jsonl");
    await writeFile(bad, '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": \n');
    const [code, , message] = await failure("tune", "-m", model, "-d", bad, "-o", join(folder, "bad"));
    expect([code, message]).toEqual([2, expect.stringMatching(/bad\.jsonl.*\b2\b|line 2/s)]);
    await writeFile(bad, "");
    expect((await failure("tune", "-m", model, "-d", bad, "-o", join(folder, "bad")))[0]).toBe(2);
    const [, , wide] = await tuning("-m", model, "--rank", "4000");
    expect(wide).toMatch(/4,?000/);
    const [, , target] = await tuning("-m", model, "--target-modules", "q_prj");
    expect(target).toContain("q_proj");
    expect(existsSync(join(folder, "bad/adapter"))).toBe(false);
  });

  it("refuses damaged and foreign models before using them", async () => {
    const copy = join(folder, "model");
    await cp(model, copy, { recursive: true });
    const config = JSON.parse(readFileSync(join(copy, "config.json"), "utf8"));
    await writeFile(join(copy, "config.json"), JSON.stringify({ ...config, model_type: "mamba" }));
    const [code, , foreign] = await tuning("-m", copy);
    expect([code, foreign]).toEqual([2, expect.stringMatching(/mamba(.|\n)*llama/)]);
    await writeFile(join(copy, "config.json"), JSON.stringify({ ...config, hidden_size: config.hidden_size * 2 }));
    const [, , misshapen] = await tuning("-m", copy);
    expect(misshapen.match(/model\.layers/g)?.length).toBeGreaterThan(5);
    await writeFile(join(copy, "config.json"), JSON.stringify(config));
    await truncate(join(copy, "model.safetensors"), 100_000);
    expect((await tuning("-m", copy))[0]).toBe(2);
    await truncate(join(copy, "model.safetensors"), 5);
    expect((await tuning("-m", copy))[0]).toBe(2);
  });

  it("is told for options too", async () => {
    for (const args of [
      ["tune"],
      ["tune", "--rnk", "4"],
      ["export", "-m", "x", "-o", "y", "--to", "gguf"],
      ["tuen"],
      [],
    ]) {
      const { code, stderr } = await scion(args);
      expect([args, code]).toEqual([args, 2]);
      expect(stderr).not.toBe("");
    }
  });

  it("stops at a loss that is not finite, with a code of its own", async () => {
    const diverged = ["--learning-rate", "1e30", "--max-grad-norm", "0", "--max-steps", "20", "--batch-size", "4"];
    const [code, name] = await tuning("-m", model, ...diverged);
    expect([code, name]).toEqual([3, "not-finite-loss"]);
  });
});

describe("help", () => {
  it("teaches every command by an example", async () => {
    const overview = await scion(["--help"]);
    expect(overview.code).toBe(0);
    for (const name of Object.keys(commands)) {
      const [word = "", own] = name.split(" ");
      expect(overview.stdout).toContain(word);
      if (own !== undefined) expect((await scion([word, "--help"])).stdout).toContain(own); // a command of two words
      const { code, stdout } = await scion([name, "--help"]);
      expect(code).toBe(0);
      expect(stdout).toMatch(/Examples?:\n.*\$?.*scion/);
      expect(stdout).toContain("--json");
    }
  });
});
