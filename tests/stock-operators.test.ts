import { afterAll, beforeAll, expect, it } from "vitest";
import { openDecoder } from "../src/generate/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openOnnx } from "../src/io/onnx/read.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { openModel } from "../src/models/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import type { Device } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { openTrainer } from "../src/train/trainer.ts";
import { golden } from "./helpers/golden.ts";

let device: Device;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
});
afterAll(() => device.close());

it.each(["llama-tiny", "gpt2-tiny"])("training and decoding %s takes standard ONNX operators only", async (name) => {
  const compiled: Record<string, Uint8Array>[] = [];
  const watched: Device = {
    ...device,
    provider: device.provider,
    compile: (source) => {
      const beside = (source.externalData ?? []).map(({ path, data }) => [path, data.slice()] as const);
      compiled.push({ "model.onnx": source.model.slice(), ...Object.fromEntries(beside) });
      return device.compile(source);
    },
    run: (request) => device.run(request),
    upload: (...given) => device.upload(...given),
    download: (...given) => device.download(...given),
    discard: (...given) => device.discard(...given),
    release: (program) => device.release(program),
    close: () => device.close(),
  };
  const model = await openModel(nodeStorage, golden(name));
  for (const method of ["lora", "full"]) {
    const trainer = await openTrainer(watched, model, {
      choice: chooseMethod(method, {}),
      targets: "all-linear",
      optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates: method === "lora",
      seed: 0,
    });
    await trainer.close();
  }
  await (await openDecoder(watched, model)).close();
  expect(compiled.length).toBeGreaterThan(2);
  for (const files of compiled) {
    const { opsets, nodes } = await openOnnx(memoryStorage(files), "model.onnx");
    // 23 where a step rotates positions by the operator of that set, which CPUs have a kernel for.
    expect([...opsets].map(([domain, version]) => `${domain}${version}`)).toEqual([expect.stringMatching(/^(21|23)$/)]);
    expect(nodes.filter(({ domain }) => domain !== "")).toEqual([]);
  }
});
