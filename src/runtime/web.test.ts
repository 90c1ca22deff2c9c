import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { launchChromium } from "../../tests/helpers/chromium.ts";
import { servePage } from "../../tests/helpers/serve.ts";
import { deviceLaws } from "./device.conformance.ts";
import type { WebPage } from "./web.browser.ts";

declare const scion: WebPage; // in the page

const browser: Browser | undefined = await launchChromium();
if (browser === undefined) console.warn("No Chromium was found: the tests in a page are skipped.");

describe.skipIf(browser === undefined)("in a page", () => {
  let page: Page;
  let server: Awaited<ReturnType<typeof servePage>>;
  const errors: string[] = [];

  beforeAll(async () => {
    server = await servePage({ page: "src/runtime/web.browser.ts", "web-worker": "src/runtime/web-worker.ts" });
    if (browser === undefined) throw new Error("this suite is skipped without a browser");
    page = await browser.newPage();
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(server.url);
    await page.addScriptTag({ url: "/page.js", type: "module" });
  });
  afterAll(async () => {
    await browser?.close();
    await server.close();
  });

  it("is cross-origin isolated and has both providers", async () => {
    expect(await page.evaluate(() => scion.isolated)).toBe(true);
    expect(await page.evaluate(() => scion.providers())).toEqual(["wasm", "webgpu"]);
  });

  describe.each([
    { provider: "wasm", worker: true, threads: 2 },
    { provider: "webgpu", worker: true },
    { provider: "wasm", worker: false, threads: 1 },
  ])("a $provider device (worker: $worker)", (options) => {
    it.each(deviceLaws)("$name", { timeout: 30_000 }, ({ name }) =>
      page.evaluate(([law, chosen]) => scion.checkLaw(law, chosen), [name, options] as const),
    );
  });

  it("threw nothing besides", () => {
    expect(errors).toEqual([]);
  });
});
