import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  compareQuantized,
  generate,
  inspect,
  type LoadedData,
  type LoadedModel,
  loadData,
  loadModel,
  quantize,
  tune,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";

const shared = fileURLToPath(new URL("../../shared", import.meta.url));
const present = existsSync(`${shared}/models`);
if (!present) console.warn("../shared is absent: quantising real checkpoints is skipped.");

const deviceOptions = { worker: false, threads: 2 } as const;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-quantise-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function text(model: LoadedModel, prompt: string, device?: Awaited<ReturnType<typeof nodePlatform.openDevice>>) {
  const stream = generate(model, prompt, { maxNewTokens: 40, temperature: 0, ...(device ? { device } : {}) });
  let step = await stream.next();
  while (!step.done) step = await stream.next();
  return step.value.text;
}

describe.skipIf(!present)("a real checkpoint", () => {
  let model: LoadedModel;
  let data: LoadedData;
  beforeAll(async () => {
    const stories = (await readFile(`${shared}/data/tinystories/stories.txt`, "utf8"))
      .split("<|endoftext|>")
      .map((story) => JSON.stringify({ text: story.trim() }));
    await writeFile(join(folder, "calibration.jsonl"), stories.slice(0, 16).join("\n"));
    await writeFile(join(folder, "held.jsonl"), stories.slice(300, 308).join("\n"));
    model = await loadModel(`${shared}/models/babyllama-tok105`, { platform: nodePlatform });
    const validationPath = join(folder, "held.jsonl");
    data = await loadData(model, join(folder, "calibration.jsonl"), { maxLength: 256, validationPath });
  });

  it("loses less with ShiftAdd than with GPTQ at 2 bits, and goes on from its packed folder", async () => {
    const rows = await compareQuantized(model, data, {
      candidates: [
        { name: "shiftadd", method: "shiftadd", bits: 2 },
        { name: "gptq", method: "gptq", bits: 2 },
      ],
      output: join(folder, "compared"),
      deviceOptions,
    });
    const [own, shiftadd, gptq] = rows;
    expect(own?.loss).toBeLessThan(1);
    expect(shiftadd?.loss).toBeLessThan((gptq?.loss ?? 0) - 0.15);
    expect(shiftadd?.report?.bitsPerWeight).toBeLessThan(gptq?.report?.bitsPerWeight ?? 0);
    expect(shiftadd?.report?.averageBits).toBe(2);

    const packed = await loadModel(join(folder, "compared", "shiftadd"), { platform: nodePlatform });
    expect((await inspect(nodePlatform.storage, packed.folder)).kind).toBe("packed model");
    // On kernels, and dequantised on ONNX Runtime.
    const device = await nodePlatform.openDevice(deviceOptions);
    expect(await text(packed, "Once upon a time")).toBe(await text(packed, "Once upon a time", device));
    const tuned = await tune(packed, data, {
      method: "alpha",
      targetModules: "all-linear",
      maxSteps: 1,
      learningRate: 2e-3,
      batchSize: 16,
      device,
    });
    expect(tuned.adapter.parameters.size).toBe(35);
    await expect(quantize(packed, data, { output: join(folder, "twice") })).rejects.toMatchObject({
      code: "already-packed",
    });
    await device.close();
  }, 240_000);

  it("refuses bits, texts and schemes that cannot be", async () => {
    const output = join(folder, "refused");
    for (const bits of [0, 9, 2.5, { average: 9 }, { average: 1.5 }]) {
      await expect(quantize(model, data, { output, bits, deviceOptions })).rejects.toMatchObject({
        code: "bad-option",
      });
    }
    await expect(quantize(model, { ...data, train: [] }, { output })).rejects.toMatchObject({
      code: "bad-calibration",
    });
    await expect(quantize(model, data, { output, calibrationRows: 1 })).rejects.toThrow(/at least 352 tokens/);
    await expect(quantize(model, data, { output, method: "shiftad" })).rejects.toThrow("nearest: shiftadd");
    expect([existsSync(output), existsSync(`${output}.work`)]).toEqual([false, false]);
  }, 120_000);
});
