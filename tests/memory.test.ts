import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import {
  evaluate,
  findLearningRate,
  generate,
  type LoadedData,
  type LoadedModel,
  openSession,
  quantize,
  type RunEvent,
  type TuneOptions,
  tune,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { defaultBaseWeights } from "../src/train/base-weights.ts";
import { reportData } from "../src/train/data/index.ts";
import { root, runHere } from "./helpers/cli.ts";
import { randomExamples, randomModel, tinyLlama } from "./helpers/tiny-model.ts";

/*
 * What would not fit is refused before it starts, with what would fit, on a machine that claims to have less.
 */
const train = Array.from({ length: 512 }, () => ({
  inputIds: new Int32Array(64).fill(1),
  trained: new Uint8Array(64).fill(1, 1),
  line: 1,
}));
const data: LoadedData = {
  ...{ format: "text", kind: "sequence", train, validation: [] },
  ...{ report: reportData(randomExamples(8)), warnings: [], ignoredKeys: [], skipped: [], renamed: {}, preview: "" },
};

/** A model on a machine with so much memory left. */
async function onMachine(availableBytes: number): Promise<LoadedModel> {
  const pretrained = await randomModel();
  const tokenizer = { padId: 0, eosId: 0, encode: () => [1] } as never; // all that is asked of it
  const platform = { ...nodePlatform, memory: () => ({ processBytes: 1e8, availableBytes }) };
  return { pretrained, platform, source: "tiny", folder: "tiny", tokenizer: async () => tokenizer };
}

const settings = { batchSize: 512, maxSteps: 1, memory: "fast", deviceOptions: { worker: false } } as const;
/** A run that is let in stops before its first update. */
const stopped = { signal: AbortSignal.abort() };

describe("how frozen weights are held unless told otherwise", () => {
  /** A model whose weights say that they are as large as that, in float32. */
  async function ofSize(bytes: number, storedAs: "bfloat16" | "float16" | "float32"): Promise<LoadedModel> {
    const model = await onMachine(1e12);
    const pretrained = await randomModel(tinyLlama, 3, storedAs);
    const size = bytes / pretrained.weights.size;
    const weights = new Map(
      [...pretrained.weights].map(([name, value]) => [
        name,
        { ...value, source: { ...value.source, sizeBytes: size } },
      ]),
    );
    return { ...model, pretrained: { ...pretrained, weights } };
  }

  /** What a run says that it starts with. */
  async function held(model: LoadedModel, choice: TuneOptions = {}): Promise<string | undefined> {
    let said: string | undefined;
    const onEvent = (event: RunEvent): void => {
      if (event.kind === "start") said = event.settings.baseWeights;
    };
    await tune(model, data, { ...settings, ...stopped, ...choice, onEvent });
    return said;
  }

  it("is as the file holds them, from 500 MB saved", async () => {
    expect(await held(await ofSize(1.1e9, "bfloat16"))).toBe("bf16");
    expect(await held(await ofSize(1.1e9, "float16"))).toBe("f16");
    expect(await held(await ofSize(0.9e9, "bfloat16"))).toBe("f32");
    expect(await held(await ofSize(1.1e9, "float32"))).toBe("f32");
    expect(await held(await ofSize(1.1e9, "bfloat16"), { baseWeights: "f32" })).toBe("f32");
    expect(await held(await ofSize(1.1e9, "bfloat16"), { method: "full" })).toBe("f32");
  });

  it("is what the provider computes with, and what it does not is refused", async () => {
    const pretrained = (await ofSize(1.1e9, "bfloat16")).pretrained;
    expect(defaultBaseWeights(pretrained, "webgpu")).toBe("f32");
    expect(defaultBaseWeights((await ofSize(1.1e9, "float16")).pretrained, "webgpu")).toBe("f16");
    const onGpu = { deviceOptions: { provider: "webgpu" }, baseWeights: "bf16" } as const;
    const model = { ...(await onMachine(1e12)), pretrained };
    const refused = { code: "bad-option", message: expect.stringContaining("webgpu does not compute with") };
    await expect(tune(model, data, onGpu)).rejects.toMatchObject(refused);
    await expect(evaluate(model, randomExamples(2), onGpu)).rejects.toMatchObject(refused);
    await expect(openSession(model, onGpu)).rejects.toMatchObject(refused);
  });
});

describe("what does not fit is refused before it starts", () => {
  /** What tune says on a machine with so much memory left. */
  async function refusal(availableBytes: number): Promise<{ code: string; message: string; fix: string }> {
    const refused = await tune(await onMachine(availableBytes), data, { ...settings, ...stopped }).catch(
      (error: unknown) => error,
    );
    expect(refused).toMatchObject({ code: "not-enough-memory" });
    return refused as { code: string; message: string; fix: string };
  }

  it("tune says what it takes, what is free and what would fit, which does", async () => {
    const hopeless = await refusal(1e6);
    expect(hopeless.fix).toContain("nothing short of a smaller model would fit");
    const [, taken = "", unit = ""] = /would take ([\d.]+) (MB|GB) .* 1.0 MB are free/.exec(hopeless.message) ?? [];
    const availableBytes = 0.8 * Number(taken) * (unit === "GB" ? 1e9 : 1e6);
    const { fix } = await refusal(availableBytes);
    expect(fix).toContain("--ignore-memory");
    const [, proposed = ""] = /this fits, with [\d.]+ [MG]B: (.*?);/.exec(fix) ?? [];
    const changed = proposed.split(", ").map((one) => one.split(" "));
    expect(changed.length).toBeGreaterThan(0);
    const fitting = changed.map(([name = "", value = ""]) => [
      name,
      Number.isNaN(Number(value)) ? value : Number(value),
    ]);
    const again = tune(await onMachine(availableBytes), data, {
      ...settings,
      ...stopped,
      ...Object.fromEntries(fitting),
    });
    expect((await again).ended).toBe("interrupted");
  });

  it("goes on where it fits, and where it is told to", async () => {
    expect((await tune(await onMachine(1e12), data, { ...settings, ...stopped })).ended).toBe("interrupted");
    const asked = { ...settings, ...stopped, ignoreMemory: true };
    expect((await tune(await onMachine(1e6), data, asked)).ended).toBe("interrupted");
  });

  it("a search for a learning rate, an evaluation, an answer and a packing likewise", async () => {
    const search = { batchSize: 64, deviceOptions: { worker: false }, steps: 10 };
    await expect(findLearningRate(await onMachine(1e6), data, search)).rejects.toMatchObject({
      code: "not-enough-memory",
    });
    const model = await onMachine(1e3);
    const on = { deviceOptions: { worker: false } };
    await expect(evaluate(model, train, on)).rejects.toMatchObject({ code: "not-enough-memory" });
    await expect(generate(model, "a", on).next()).rejects.toMatchObject({ code: "not-enough-memory" });
    await expect(quantize(model, data, { ...on, output: "none" })).rejects.toMatchObject({ code: "not-enough-memory" });
  });
});

describe("scion tune", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-memory-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("refuses, and makes the run with --ignore-memory", async () => {
    const memory = vi.spyOn(nodePlatform, "memory").mockReturnValue({ processBytes: 1e8, availableBytes: 1e6 });
    const line = ["-m", `${root}assets/quickstart/model`, "-d", `${root}assets/quickstart/heldout.jsonl`];
    const flags = ["--max-steps", "1", "--batch-size", "2", "--max-length", "40"];
    try {
      const out = join(folder, "run");
      await expect(runHere("tune", ...line, ...flags, "-o", out)).rejects.toMatchObject({ code: "not-enough-memory" });
      // As on a machine of that size, data is streamed; the run is made all the same.
      expect((await runHere("tune", ...line, ...flags, "-o", `${out}2`, "--ignore-memory")).code).toBe(0);
    } finally {
      memory.mockRestore();
    }
  });
});
