import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../src/errors.ts";
import {
  exportModel,
  type LoadedData,
  type LoadedModel,
  loadData,
  loadModel,
  type Storage,
  tune,
} from "../src/index.ts";
import { compileChatTemplate } from "../src/io/chat-template.ts";
import { openOnnx } from "../src/io/onnx/read.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import type { Device } from "../src/runtime/device.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { readMetrics } from "../src/train/metrics.ts";
import { program, root } from "./helpers/cli.ts";

let folder: string;
let model: LoadedModel;
let data: LoadedData;
const at = (...names: string[]): string => join(folder, ...names);
const unsaved = {
  maxSteps: 6,
  batchSize: 4,
  learningRate: 1e-3,
  targetModules: "all-linear",
  methodOptions: { rank: 2 },
} as const;
const settings = { ...unsaved, checkpointEvery: 2 } as const;
const heldout = `${root}assets/quickstart/heldout.jsonl`;
const quickstart = `${root}assets/quickstart/model`;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-faults-"));
  model = await loadModel(quickstart, { platform: nodePlatform });
  data = await loadData(model, heldout, { maxLength: 128 });
  await tune(model, data, { ...settings, output: at("whole") });
});
afterAll(() => rm(folder, { recursive: true, force: true }));
const metrics = (name: string): Promise<unknown> => readMetrics(nodeStorage, at(name));

/** The model on a disk that has an idea of its own. */
function onDisk(changes: Partial<Storage>): LoadedModel {
  return { ...model, platform: { ...nodePlatform, storage: { ...nodeStorage, ...changes } } };
}

describe("a disk that is full", () => {
  it("stops a run with a code at any write, keeps its checkpoint, and lets it go on", async () => {
    for (const failing of [2, 5]) {
      let writes = 0;
      const full = onDisk({
        write: async (path, content) => {
          if (++writes === failing) throw new TuneError("write-failed", "ENOSPC", { fix: "free space" });
          await nodeStorage.write(path, content);
        },
      });
      const name = `full-${failing}`;
      const found = await tune(full, data, { ...settings, output: at(name) }).catch((error: unknown) => error);
      if (writes < failing) continue; // fewer writes than that
      expect(found).toMatchObject({ code: "write-failed" });
      await tune(model, data, { ...settings, output: at(name), resume: true });
      expect(await metrics(name)).toEqual(await metrics("whole"));
    }
  });

  it("leaves no part of a folder that was being exported, and the one before as it was", async () => {
    await exportModel(model, "transformers.js", at("web"));
    const before = readdirSync(at("web"), { recursive: true });
    let writes = 0;
    const full = onDisk({
      write: async (path, content) => {
        if (++writes === 3) throw new TuneError("write-failed", "ENOSPC", { fix: "free space" });
        await nodeStorage.write(path, content);
      },
    });
    await expect(exportModel(full, "transformers.js", at("web"))).rejects.toMatchObject({ code: "write-failed" });
    await expect(exportModel(full, "safetensors", at("new"))).resolves.toBeUndefined(); // the third write is over
    writes = 1;
    await expect(exportModel(full, "safetensors", at("newer"))).rejects.toMatchObject({ code: "write-failed" });
    expect(readdirSync(at("web"), { recursive: true })).toEqual(before);
    expect(readdirSync(folder).filter((name) => /newer|partial|lock/.test(name))).toEqual([]);
  });

  it.skipIf(!existsSync("/dev/full"))("is told by the system's own error, with what to do", async () => {
    await symlink("/dev/full", at("log"));
    await expect(nodeStorage.append(at("log"), "x")).rejects.toThrow(/ENOSPC[\s\S]*free space on that disk/);
  });

  const own = spawnSync("unshare", ["-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmpdir()]);
  it.skipIf(own.status !== 0)("a file system of 300 kB: refused with a code; with more space the run goes on", () => {
    const disk = at("disk");
    const scion = `"${process.execPath}" ${program} tune -m "${quickstart}" -d "${heldout}" --max-length 128 --max-steps 6 --batch-size 4 --learning-rate 1e-3 --checkpoint-every 2 --rank 2 --no-tensorboard -o "${disk}/run"`;
    const script = [
      `mkdir -p "${disk}" && mount -t tmpfs -o size=300k tmpfs "${disk}"`,
      `${scion} >/dev/null; echo "first $?"`,
      `ls -A "${disk}/run" | tr '\\n' ' '; echo`,
      `mount -o remount,size=30m "${disk}"`,
      `${scion} $(test -e "${disk}/run/checkpoint.safetensors" && echo --resume) >/dev/null; echo "second $?"`,
      `cp "${disk}/run/metrics.jsonl" "${at("disk-metrics.jsonl")}"`,
    ].join("\n");
    const { stdout, stderr } = spawnSync("unshare", ["-Urm", "sh", "-c", script], { cwd: root, encoding: "utf8" });
    expect(stdout, stderr).toMatch(/first 2\n[\s\S]*second 0/);
    expect(stderr).toMatch(/ENOSPC[\s\S]*free space on that disk[\s\S]*\(write-failed\)/);
    expect(stdout).not.toMatch(/adapter|partial/);
    expect(readFileSync(at("disk-metrics.jsonl"), "utf8")).toBe(readFileSync(at("whole/metrics.jsonl"), "utf8"));
  });

  it.skipIf(own.status !== 0)("and one that is read-only: exit code 2, and an error with its code that says so", () => {
    const disk = at("disk-ro");
    const script = `mkdir -p "${disk}" && mount -t tmpfs -o ro tmpfs "${disk}" && "${process.execPath}" ${program} tune -m "${quickstart}" -d "${heldout}" --max-steps 2 -o "${disk}/run"; echo "ended $?"`;
    const { stdout, stderr } = spawnSync("unshare", ["-Urm", "sh", "-c", script], { cwd: root, encoding: "utf8" });
    expect(stdout).toContain("ended 2");
    expect(stderr).toMatch(/EROFS[\s\S]*that disk is read-only[\s\S]*\(write-failed\)/);
  });
});

describe("memory that runs out", () => {
  it("is answered with what a plan would advise", async () => {
    const device = await nodePlatform.openDevice({ threads: 1 });
    const small: Device = {
      provider: device.provider,
      compile: (source) => device.compile(source),
      upload: (name, tensor) => device.upload(name, tensor),
      download: (name) => device.download(name),
      discard: (names) => device.discard(names),
      release: (program) => device.release(program),
      close: () => device.close(),
      run: async (request) => {
        if ("input_ids" in request.feeds) throw new TuneError("out-of-memory", "bad_alloc", { at: "node 7" });
        return device.run(request);
      },
    };
    const error = await tune(model, data, { ...unsaved, batchSize: 64, device: small }).catch(
      (reason: unknown) => reason,
    );
    await device.close();
    expect(error).toMatchObject({
      code: "out-of-memory",
      fix: expect.stringMatching(/(memory small|batchSize \d+|baseWeights|maxLength).* GB instead of \d/),
    });
  });
});

describe("files that change, and others at work", () => {
  it("a model's file that changes under a run is refused, not mixed with the old one", async () => {
    await cp(quickstart, at("model"), { recursive: true });
    const changing = await loadModel(at("model"), { platform: nodePlatform });
    const file = at("model/model.safetensors");
    const bytes = readFileSync(file);
    await writeFile(file, bytes.subarray(0, bytes.length - 4));
    await expect(tune(changing, data, unsaved)).rejects.toMatchObject({ code: "file-changed" });
    await writeFile(file, bytes);
    await expect(tune(changing, data, unsaved)).rejects.toMatchObject({ code: "file-changed" });
    expect((await tune(await loadModel(at("model"), { platform: nodePlatform }), data, unsaved)).ended).toBe(
      "finished",
    );
  });

  it("a run is not resumed with other weights of the same sizes", async () => {
    await cp(quickstart, at("other"), { recursive: true });
    await cp(at("whole"), at("resumed"), { recursive: true });
    const bytes = readFileSync(at("other/model.safetensors"));
    bytes[bytes.length - 2] = (bytes[bytes.length - 2] ?? 0) ^ 1;
    await writeFile(at("other/model.safetensors"), bytes);
    const other = await loadModel(at("other"), { platform: nodePlatform });
    await expect(tune(other, data, { ...settings, output: at("resumed"), resume: true })).rejects.toThrow(/weights:/);
  });

  it("two runs in one folder are refused; the lock of a process that is gone is taken over", async () => {
    const lock = await nodeStorage.lock(at("busy/run"));
    await expect(tune(model, data, { ...settings, output: at("busy") })).rejects.toThrow(
      new RegExp(`in use by process ${process.pid}`),
    );
    await lock.release();
    const { pid } = spawnSync(process.execPath, ["-e", ""]);
    const gone = { pid, started: "1", host: hostname(), id: "x" };
    await writeFile(at("busy/run.lock"), JSON.stringify(gone));
    await tune(model, data, { ...settings, output: at("busy") });
    expect(readdirSync(at("busy")).sort()).toEqual([".scion.json", "checkpoint.safetensors", "metrics.jsonl"]);
    // A process that has the number of one that is gone is not that one.
    await writeFile(at("busy/run.lock"), JSON.stringify({ ...gone, pid: process.pid, started: "1" }));
    await (await nodeStorage.lock(at("busy/run"))).release();
    // What another machine holds is believed, and what is no lock is left alone.
    await writeFile(at("busy/run.lock"), JSON.stringify({ ...gone, host: "elsewhere" }));
    await expect(nodeStorage.lock(at("busy/run"))).rejects.toThrow(/on elsewhere/);
    await writeFile(at("busy/run.lock"), "mine");
    await expect(nodeStorage.lock(at("busy/run"))).rejects.toMatchObject({ code: "in-use" });
  });
});

describe("files from strangers", () => {
  it.each([
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ range(10 ** 12) | length }}",
    "{{ ('x' * 1000000000) }}",
    "{{ messages | map(attribute='constructor') | list }}{{ [].constructor.constructor('return process')() }}",
    "{{ ''.__class__.__mro__ }}{{ messages.constructor('globalThis.pwned = 1')() }}",
  ])("a template can neither loop for ever nor reach what is outside: %s", (template) => {
    const started = performance.now();
    const found = (() => {
      try {
        return compileChatTemplate(template, {}).render([{ role: "user", content: "hi" }], {
          addGenerationPrompt: true,
        });
      } catch (error) {
        if (!(error instanceof TuneError)) throw error;
        return error.code;
      }
    })();
    expect(found.length).toBeLessThan(1000);
    expect(found).not.toMatch(/function|process/i);
    expect(performance.now() - started).toBeLessThan(60_000); // a hang would be for ever
    expect("pwned" in globalThis).toBe(false);
  });

  it("no file of a model's folder is run, whatever config.json says", async () => {
    await cp(quickstart, at("code"), { recursive: true });
    const config = JSON.parse(readFileSync(at("code/config.json"), "utf8")) as object;
    const auto_map = { AutoModelForCausalLM: "modeling.Model", AutoTokenizer: "tokenizing.Tokenizer" };
    await writeFile(at("code/config.json"), JSON.stringify({ ...config, auto_map, trust_remote_code: true }));
    for (const name of ["modeling.py", "modeling.js", "tokenizing.js", "index.js", "package.json"])
      await writeFile(at("code", name), `require("fs").writeFileSync(${JSON.stringify(at("ran"))}, "")`);
    const opened = await loadModel(at("code"), { platform: nodePlatform });
    await opened.tokenizer();
    await exportModel(opened, "safetensors", at("code-out"));
    expect(existsSync(at("ran"))).toBe(false);
    expect(readdirSync(at("code-out")).filter((name) => /\.(py|js)$/.test(name))).toEqual([]);
  });

  it("an index, external data or a template never lead outside the model's folder", async () => {
    await writeFile(at("secret.safetensors"), "secret");
    await cp(quickstart, at("outside"), { recursive: true });
    await rm(at("outside/model.safetensors"));
    for (const shard of [
      "../secret.safetensors",
      at("secret.safetensors"),
      "..\\secret.safetensors",
      "a/../../secret",
    ]) {
      const index = { metadata: {}, weight_map: { "model.embed_tokens.weight": shard } };
      await writeFile(at("outside/model.safetensors.index.json"), JSON.stringify(index));
      await expect(loadModel(at("outside"), { platform: nodePlatform })).rejects.toMatchObject({
        code: "path-outside-folder",
      });
    }
    const template = "{% include '../secret.safetensors' %}{% import '/etc/passwd' as x %}";
    await writeFile(at("outside/chat_template.jinja"), template);
    const render = async (): Promise<string> => {
      const { chatTemplates } = await loadTokenizer(nodeStorage, at("outside"));
      return compileChatTemplate(chatTemplates.get("default") ?? "", {}).render([], { addGenerationPrompt: false });
    };
    await expect(render()).rejects.toMatchObject({
      code: expect.stringMatching(/^(malformed-chat-template|chat-template-failed)$/),
    });
    // External data of ONNX files: see src/io/onnx/read.test.ts, which holds the reader against such paths.
    await writeFile(at("x.onnx"), "not one");
    await expect(openOnnx(nodeStorage, at("x.onnx"))).rejects.toMatchObject({ code: "onnx-malformed" });
  });
});
