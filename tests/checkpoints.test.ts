import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { inspect } from "../src/api/inspect.ts";
import { evaluate, exportModel, loadData, loadModel } from "../src/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice, nodePlatform as platform } from "../src/runtime/node.ts";

const cases = fileURLToPath(new URL("../../shared/cases", import.meta.url));
const { skipIf } = describe;
const absent = !existsSync(cases); // ../shared/cases is not part of the repository

let device: Device;
let scratch: string;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  scratch = await mkdtemp(join(tmpdir(), "scion-checkpoints-"));
});
afterAll(async () => {
  await device.close();
  await rm(scratch, { recursive: true });
});

async function lossOf(folder: string, data: string): Promise<number> {
  const model = await loadModel(folder, { platform, labelsFrom: data });
  const { train } = await loadData(model, data);
  const { loss } = await evaluate(model, train, { device, exactMatch: false });
  return loss;
}

skipIf(absent)("quantised checkpoints of ../shared/cases", () => {
  const folder = (name: string): string => join(cases, "data/int8-codes", name);
  const text = join(cases, "data/int8-codes/text.jsonl");

  // Losses of transformers 5.18 on weights that were dequantised by hand.
  it.each([
    ["bnb8", "bitsandbytes int8", 6.8518504],
    ["w8a8", "compressed-tensors int8", 6.8516557],
    ["fp8", "float8 with scales", 6.8465697],
    ["fp8ds", "float8 with scales", 6.8465979],
    ["gptq", "GPTQ", 6.7280033],
  ])("%s is read as %s", async (name, format, expected) => {
    const { pretrained } = await loadModel(folder(name), { platform });
    expect(pretrained.quantised.map(({ format: found, matrices }) => [found, matrices])).toEqual([[format, 14]]);
    expect(await lossOf(folder(name), text)).toBeCloseTo(expected, 5); // float32 sums in another order
    const shown = await inspect(platform.storage, folder(name));
    expect(Object.fromEntries(shown.facts)["quantised"]).toContain(`${format} (14 matrices`);
    const file = await inspect(platform.storage, join(folder(name), "model.safetensors"));
    expect(Object.fromEntries(file.facts)["quantised"]).toContain(`${format} (14 matrices`);
  });

  it("mlxq, whose groups do not cover its inputs, is refused by module", async () => {
    const opened = loadModel(folder("mlxq"), { platform });
    await expect(opened).rejects.toMatchObject({
      code: "bad-quantised-weights",
      message: expect.stringContaining("model.layers.1.mlp.down_proj (MLX)"),
    });
  });

  it("what is exported holds plain weights, and its config.json says nothing else", async () => {
    const model = await loadModel(folder("bnb8"), { platform });
    const to = join(scratch, "plain");
    await exportModel(model, "safetensors", to);
    const json = JSON.parse(await readFile(join(to, "config.json"), "utf8"));
    expect([json.quantization_config, json.dtype]).toEqual([undefined, "float32"]);
    expect((await loadModel(to, { platform })).pretrained.quantised).toEqual([]);
    expect(await lossOf(to, text)).toBeCloseTo(6.8518504, 6);
  });
});
