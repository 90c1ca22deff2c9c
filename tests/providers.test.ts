import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { DeviceOptions } from "../src/runtime/device.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { launchChromium } from "./helpers/chromium.ts";
import { servePage } from "./helpers/serve.ts";
import { type TinyRun, tinyTraining } from "./helpers/tiny-training.ts";
import type { TrainingPage } from "./providers.browser.ts";

declare const scion: TrainingPage; // in the page

const steps = 8;

async function inNode(options: DeviceOptions, run: TinyRun = {}, count = steps): Promise<readonly number[]> {
  const device = await openNodeDevice(options);
  try {
    return await tinyTraining(device, count, run);
  } finally {
    await device.close();
  }
}

/** Float32 sums in another order, amplified over eight updates. */
const tolerance = 2e-6;

function expectSame(losses: readonly number[], reference: readonly number[]): void {
  expect(losses).toHaveLength(reference.length);
  losses.forEach((loss, i) => {
    expect(Math.abs(loss / (reference[i] ?? 0) - 1), `step ${i + 1}`).toBeLessThan(tolerance);
  });
}

describe("the same LoRA steps have the same losses", () => {
  let reference: readonly number[];
  beforeAll(async () => {
    reference = await inNode({ worker: false, threads: 1 });
    expect(reference[0]).toBeGreaterThan(reference.at(-1) ?? 0);
  });

  it("in a worker in Node, bit for bit", async () => {
    expect(await inNode({ worker: true, threads: 1 })).toEqual(reference);
  });

  it("on WebGPU in Node", async ({ skip }) => {
    const losses = await inNode({ provider: "webgpu" }).catch((error: unknown) => {
      // Linux x64 brings a driver (see vulkan.setup.ts), so there it has to start.
      if (process.platform === "linux" && process.arch === "x64") throw error;
      return skip("WebGPU does not start on this system");
    });
    expectSame(losses, reference);
  });
});

/** Updates of each: enough to prune and to write, and WebGPU in software is slow. */
const few = 4;
/** Methods that do something besides their forward pass, or write into weights. */
const others: readonly TinyRun[] = [
  { method: "adalora", options: { initialRank: 4, targetRank: 2, alpha: 8, budgetWarmup: 1, budgetFinal: 2 } },
  { method: "paca", options: { rank: 4, alpha: 8 } },
];

describe.each(others)("the same steps of $method have the same losses", (run) => {
  it("on WebGPU in Node, where nothing is written into weights", async ({ skip }) => {
    const losses = await inNode({ provider: "webgpu" }, run, few).catch((error: unknown) => {
      if (process.platform === "linux" && process.arch === "x64") throw error;
      return skip("WebGPU does not start on this system");
    });
    expectSame(losses, await inNode({ worker: false, threads: 1 }, run, few));
  });
});

const browser = await launchChromium();
if (browser === undefined) console.warn("No Chromium was found: training in a page is not tested.");

describe.skipIf(browser === undefined)("and in a page", () => {
  let server: Awaited<ReturnType<typeof servePage>>;
  beforeAll(async () => {
    server = await servePage({ page: "tests/providers.browser.ts", "web-worker": "src/runtime/web-worker.ts" });
  });
  afterAll(async () => {
    await browser?.close();
    await server.close();
  });

  it.each([{ provider: "wasm", threads: 2 }, { provider: "webgpu" }])("on $provider", async (options) => {
    const page = await browser?.newPage();
    await page?.goto(server.url);
    await page?.addScriptTag({ url: "/page.js", type: "module" });
    const losses = await page?.evaluate(([chosen, count]) => scion.train(chosen, count), [options, steps] as const);
    expectSame(losses ?? [], await inNode({ worker: false, threads: 1 }));
    await page?.close();
  });

  it.each(others)("in WebAssembly by $method", async (run) => {
    const page = await browser?.newPage();
    await page?.goto(server.url);
    await page?.addScriptTag({ url: "/page.js", type: "module" });
    const asked = [{ provider: "wasm", threads: 2 }, few, run] as const;
    const losses = await page?.evaluate(([chosen, count, own]) => scion.train(chosen, count, own), asked);
    expectSame(losses ?? [], await inNode({ worker: false, threads: 1 }, run, few));
    await page?.close();
  });
});
