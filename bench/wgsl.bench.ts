/**
 * Products with packed planes as WebGPU shaders, by look-up and by signs, on whatever adapter a page has:
 * npm run bench:wgsl [-- --rounds n]. Every result is checked against float64 first; then the shaders take turns.
 */
import { parseArgs } from "node:util";
import { launchChromium } from "../tests/helpers/chromium.ts";
import { servePage } from "../tests/helpers/serve.ts";
import type { ShaderPage } from "./wgsl/page.ts";

declare const shaders: ShaderPage; // in the page

const { values } = parseArgs({ options: { rounds: { type: "string", default: "20" } } });
const browser = await launchChromium();
if (!browser) throw new Error("no Chromium was found");
const server = await servePage({ page: "bench/wgsl/page.ts" });
try {
  const page = await browser.newPage();
  await page.goto(server.url);
  await page.addScriptTag({ url: "/page.js", type: "module" });
  for (const bits of [2, 3]) {
    const sizes = { rows: 4096, columns: 4096, bits, slices: 4 };
    const { adapter, results } = await page.evaluate(([asked, rounds]) => shaders.measure(asked, rounds), [
      sizes,
      Number(values.rounds),
    ] as const);
    const wrong = results.find(({ error }) => !(error < 1e-5));
    if (wrong) throw new Error(`the shader by ${wrong.way} is wrong by ${wrong.error}`);
    console.log(`\n${adapter}, ${sizes.rows}×${sizes.columns}, ${bits} bits\n`);
    console.log("| shader | ms (least) | error |\n| --- | --- | --- |");
    for (const { way, median, least, error } of results)
      console.log(`| ${way} | ${median.toFixed(3)} (${least.toFixed(3)}) | ${error.toExponential(1)} |`);
  }
} finally {
  await browser.close();
  await server.close();
}
