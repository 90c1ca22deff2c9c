import { openNodeDevice } from "../../src/runtime/node.ts";
import { launchChromium } from "../../tests/helpers/chromium.ts";
import { type FamilyRun, familyTraining } from "../../tests/helpers/family-training.ts";
import { servePage } from "../../tests/helpers/serve.ts";
import type { TrainingPage } from "../../tests/providers.browser.ts";

declare const scion: TrainingPage; // in the page

type Train = (config: Readonly<Record<string, unknown>>, steps: number) => Promise<FamilyRun>;

/** Where families are trained, by the head of its column in docs/providers.md. The first is what the others are held against. */
export const columns: Readonly<Record<string, Train>> = {
  "`cpu` in Node": inNode("cpu"),
  "`webgpu` in Node": inNode("webgpu"),
  "`wasm` in a page": inPage("wasm"),
  "`webgpu` in a page": inPage("webgpu"),
};

function inNode(provider: string): Train {
  return async (config, steps) => {
    const device = await openNodeDevice({ provider, worker: false, threads: 1 });
    try {
      return await familyTraining(device, config, steps);
    } finally {
      await device.close();
    }
  };
}

/** In a browser of its own: one that has run several models on WebGPU in software may crash. */
function inPage(provider: string): Train {
  return async (config, steps) => {
    const server = await servePage({ page: "tests/providers.browser.ts", "web-worker": "src/runtime/web-worker.ts" });
    const browser = await launchChromium();
    try {
      if (browser === undefined) throw new Error("no Chromium was found");
      const page = await browser.newPage();
      await page.goto(server.url);
      await page.addScriptTag({ url: "/page.js", type: "module" });
      const asked = [{ provider, threads: 1 }, config, steps] as const;
      return await page.evaluate(([options, given, count]) => scion.trainFamily(options, given, count), asked);
    } finally {
      await browser?.close();
      await server.close();
    }
  };
}
