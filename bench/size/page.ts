import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import type { Browser } from "playwright-core";
import { servePage } from "../../tests/helpers/serve.ts";
import type { Answered, Asked } from "./answer.ts";
import type { AnsweringPage } from "./page.browser.ts";

declare const scion: AnsweringPage; // in the page

/** What a page made of a prompt, and the most memory that it had. */
export interface PageAnswered extends Answered {
  /** Of the largest of the browser's processes that show pages; undefined where the system does not tell. */
  readonly peakBytes: number | undefined;
}

/** Let a page load a folder of `models` by transformers.js and continue a prompt. */
export async function answerInPage(
  browser: Browser,
  models: string,
  asked: Omit<Asked, "device">,
): Promise<PageAnswered> {
  // transformers.js brings a build of ONNX Runtime of its own.
  const { resolve } = createRequire(createRequire(import.meta.url).resolve("@huggingface/transformers"));
  const runtime = dirname(resolve("onnxruntime-web"));
  const server = await servePage({ page: "bench/size/page.browser.ts" }, { models, runtime });
  try {
    const page = await browser.newPage();
    await page.goto(server.url);
    await page.addScriptTag({ url: "/page.js", type: "module" });
    const answered = await page.evaluate((all) => scion.answer({ ...all, device: "wasm" }), asked);
    const peakBytes = await peakOf(browser);
    await page.close();
    return { ...answered, peakBytes };
  } finally {
    await server.close();
  }
}

async function peakOf(browser: Browser): Promise<number | undefined> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const peaks = processInfo
    .filter(({ type }) => type === "renderer")
    .map(async ({ id }) => {
      const status = await readFile(`/proc/${id}/status`, "utf8").catch(() => "");
      return 1024 * Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN);
    });
  const most = Math.max(...(await Promise.all(peaks)));
  return Number.isFinite(most) ? most : undefined;
}
