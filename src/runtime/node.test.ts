import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type * as OrtNode from "onnxruntime-node";
import { describe, expect, it, vi } from "vitest";
import { assert } from "../errors.ts";
import { graph, makeNode, parameter, tensor } from "../graph/index.ts";
import { linuxCores } from "./cpu-limits.ts";
import { checkLaw, deviceLaws } from "./device.conformance.ts";
import { identityModel } from "./identity-model.ts";
import { nodePlatform, openNodeDevice } from "./node.ts";
import { readSmall } from "./node-small-file.ts";
import { compileGraph } from "./program.ts";

describe.each([{ worker: false }, { worker: true }])("a cpu device (worker: $worker)", ({ worker }) => {
  it.each(deviceLaws)("$name", (law) => checkLaw(law, () => openNodeDevice({ worker, threads: 1 })));
});

// tests/helpers/vulkan.setup.ts brings a driver on Linux x64; elsewhere it takes a GPU.
const canWebGpu = (process.platform === "linux" && process.arch === "x64") || (await starts("webgpu"));
describe.skipIf(!canWebGpu)("a webgpu device", () => {
  it.each(deviceLaws)("$name", (law) => checkLaw(law, () => openNodeDevice({ provider: "webgpu", worker: false })));
  it("runs in a worker too", async () => {
    for (const law of deviceLaws.slice(0, 1)) {
      await checkLaw(law, () => openNodeDevice({ provider: "webgpu" }));
    }
  });
});

it("gives an operator the cores of this process, unless told otherwise", async () => {
  const ort = createRequire(import.meta.url)("onnxruntime-node") as typeof OrtNode;
  const create = vi.spyOn(ort.InferenceSession, "create");
  for (const threads of [undefined, 1]) {
    const device = await openNodeDevice({ worker: false, ...(threads ? { threads } : {}) });
    await device.compile({ model: identityModel("float32") });
    await device.close();
    const given = create.mock.lastCall?.at(-1) as { intraOpNumThreads?: number };
    expect(given.intraOpNumThreads).toBe(threads ?? linuxCores(readSmall));
  }
  create.mockRestore();
});

it("needs no more memory after 500 steps than after 100", async () => {
  const size = 512;
  const p = parameter("p", "float32", [size, size]);
  const [next] = makeNode({ op: "Add", inputs: [p, p], outputs: [p] }).outputs;
  assert(next !== undefined, "Add has an output");
  const device = await openNodeDevice({ worker: false, threads: 1 });
  const program = await compileGraph(device, graph({ outputs: { next } }), { residentOutputs: ["next"] });
  await device.upload("p", tensor("float32", [size, size], 1));
  const steps = async (count: number) => {
    for (let step = 0; step < count; step++) {
      await program.run({ feeds: {}, reads: { p: "p" }, writes: { next: "p" } });
    }
    return process.memoryUsage().rss;
  };
  const early = await steps(100);
  const growth = (await steps(400)) - early;
  await device.close();
  // Each step makes a tensor of 1 MiB: 400 MiB if they were kept. The slack is for when garbage is collected.
  expect(growth).toBeLessThan(100 * 2 ** 20);
});

it("writes ONNX Runtime's profile when the program is released", async () => {
  const folder = await mkdtemp(join(tmpdir(), "scion-profile-"));
  const device = await openNodeDevice({ worker: false });
  const profile = join(folder, "step");
  const program = await device.compile({ model: identityModel("float32"), tuning: { profile } });
  await device.run({ program, feeds: { x: tensor("float32", [1], 1) } });
  await device.release(program);
  await device.close();
  const [file = ""] = await readdir(folder);
  expect(JSON.parse(await readFile(join(folder, file), "utf8"))).toContainEqual(
    expect.objectContaining({ cat: "Session", name: "model_run" }),
  );
  await rm(folder, { recursive: true });
});

describe("the Node platform", () => {
  it("names its providers, cpu first", async () => {
    expect((await nodePlatform.providers())[0]).toBe("cpu");
  });
  it.each([true, false])("says which providers there are when asked for another (worker: %s)", async (worker) => {
    await expect(openNodeDevice({ provider: "abacus", worker })).rejects.toMatchObject({
      code: "unknown-provider",
      fix: expect.stringContaining("cpu"),
    });
  });
});

async function starts(provider: string): Promise<boolean> {
  try {
    await (await openNodeDevice({ provider, worker: false })).close();
    return true;
  } catch {
    return false;
  }
}

it("opens no device once the process is being left", async () => {
  vi.resetModules(); // this is so once and for all
  const { closeDevices, openNodeDevice } = await import("./node.ts");
  const opening = openNodeDevice({ threads: 1 });
  await closeDevices();
  await expect((await opening).download("a")).rejects.toMatchObject({ code: "device-closed" });
  for (const worker of [true, false])
    await expect(openNodeDevice({ worker, threads: 1 })).rejects.toMatchObject({ code: "device-closed" });
});
