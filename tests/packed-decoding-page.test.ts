import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPackedDecoder } from "../src/decode/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { openModel } from "../src/models/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { launchChromium } from "./helpers/chromium.ts";
import { golden } from "./helpers/golden.ts";
import { packFolder } from "./helpers/packed-model.ts";
import { servePage } from "./helpers/serve.ts";
import type { DecodingPage } from "./packed-decoding.browser.ts";

declare const scion: DecodingPage; // in the page

const browser = await launchChromium();
if (browser === undefined) console.warn("No Chromium was found: packed models in a page are not tested.");

describe.skipIf(browser === undefined)("packed models in a page", () => {
  let server: Awaited<ReturnType<typeof servePage>>;
  const storage = memoryStorage();
  let files: Record<string, string>;
  let expected: readonly number[];

  beforeAll(async () => {
    server = await servePage({ page: "tests/packed-decoding.browser.ts", "web-thread": "src/runtime/web-thread.ts" });
    await packFolder(nodeStorage, golden("llama-tiny"), { storage, folder: "packed" }, { bits: 3, scales: "columns" });
    files = Object.fromEntries(
      await Promise.all(
        (await storage.list("packed")).map(async (name) => {
          const bytes = await storage.read(`packed/${name}`);
          return [name, Buffer.from(bytes).toString("base64")] as const;
        }),
      ),
    );
    const model = await openModel(storage, "packed");
    const recipe = model.recipe();
    if (recipe === undefined) throw new Error("no recipe");
    const decoder = await openPackedDecoder(model, recipe, nodePlatform.threads, { threads: 1, lookups: "fast" });
    const first = await decoder.start([Array.from({ length: 20 }, (_, i) => i % 7)]);
    const second = await first.next([3]);
    expected = [...(first.logits[0] ?? []), ...(second.logits[0] ?? [])];
    await decoder.close();
  });
  afterAll(async () => {
    await browser?.close();
    await server.close();
  });

  it("give Node's bits with every build, alone and with workers on shared memory", async () => {
    const page = await browser?.newPage();
    if (page === undefined) throw new Error("this suite is skipped without a browser");
    await page.goto(server.url);
    await page.addScriptTag({ url: "/page.js", type: "module" });
    // Chromium has had relaxed SIMD since 114, and the test's page is isolated.
    expect(await page.evaluate(() => [scion.build, scion.threads > 1])).toEqual(["relaxed", true]);
    for (const options of [
      { build: "strict", threads: 1 },
      { build: "relaxed", threads: 1 },
      { build: "relaxed", threads: 2 },
    ] as const) {
      const given = await page.evaluate(([all, chosen]) => scion.decode(all, chosen), [files, options] as const);
      expect(given.threads).toBe(options.threads);
      expect(given.logits).toEqual(expected);
    }
    await page.close();
  });
});
