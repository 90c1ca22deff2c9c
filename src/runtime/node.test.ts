import { describe, expect, it } from "vitest";
import { checkLaw, deviceLaws } from "./device.conformance.ts";
import { nodePlatform, openNodeDevice } from "./node.ts";

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
