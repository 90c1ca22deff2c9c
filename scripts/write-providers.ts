import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { openNodeDevice } from "../src/runtime/node.ts";
import { launchChromium, softwareVulkan } from "../tests/helpers/chromium.ts";
import { families } from "../tests/helpers/families.ts";
import { servePage } from "../tests/helpers/serve.ts";
import { tinyTraining } from "../tests/helpers/tiny-training.ts";
import type { TrainingPage } from "../tests/providers.browser.ts";

/*
 * Which family trains on which execution provider: three LoRA steps of a tiny model of each, on each, against the
 * losses of one thread on the CPU. Writes the table of docs/providers.md:  npm run providers
 */
declare const scion: TrainingPage; // in the page

const steps = 3;
const page = fileURLToPath(new URL("../docs/providers.md", import.meta.url));

// A driver of WebGPU has to be there before a process starts, so this one starts itself again.
if (process.env["SCION_PROVIDERS"] === undefined) {
  const env = { ...process.env, ...(await softwareVulkan()), SCION_PROVIDERS: "1" };
  const { status } = spawnSync(process.execPath, ["--import", "tsx", fileURLToPath(import.meta.url)], {
    env,
    stdio: "inherit",
  });
  process.exit(status ?? 1);
}

type Train = (config: Readonly<Record<string, unknown>>) => Promise<readonly number[]>;

async function inNode(provider: string, config: Parameters<Train>[0], threads?: number): Promise<readonly number[]> {
  const device = await openNodeDevice({ provider, worker: false, ...(threads ? { threads } : {}) });
  try {
    return await tinyTraining(device, steps, config);
  } finally {
    await device.close();
  }
}

const browser = await launchChromium();
if (browser === undefined) throw new Error("the table needs a Chromium");
const server = await servePage({ page: "tests/providers.browser.ts", "web-worker": "src/runtime/web-worker.ts" });

async function inPage(provider: string, config: Parameters<Train>[0]): Promise<readonly number[]> {
  const tab = await browser?.newPage();
  try {
    await tab?.goto(server.url);
    await tab?.addScriptTag({ url: "/page.js", type: "module" });
    const given = [{ provider }, steps, config] as const;
    return (await tab?.evaluate(([options, count, json]) => scion.train(options, count, json), given)) ?? [];
  } finally {
    await tab?.close();
  }
}

const providers: Readonly<Record<string, Train>> = {
  "`cpu` in Node": (config) => inNode("cpu", config),
  "`webgpu` in Node": (config) => inNode("webgpu", config),
  "`wasm` in a page": (config) => inPage("wasm", config),
  "`webgpu` in a page": (config) => inPage("webgpu", config),
};

/** The largest difference of a loss from the reference, relative, or what went wrong. */
async function tried(train: Train, config: Parameters<Train>[0], reference: readonly number[]): Promise<string> {
  try {
    const losses = await train(config);
    const off = Math.max(...reference.map((loss, i) => Math.abs((losses[i] ?? Number.NaN) / loss - 1)));
    return off < 1e-4
      ? `yes, ${
          off === 0
            ? "0"
            : off
                .toExponential(0)
                .replace("e-", "·10⁻")
                .replace(/⁻(\d+)$/, (_, n: string) => `⁻${raised(n)}`)
        }`
      : `no: losses are off by ${off.toExponential(1)}`;
  } catch (error) {
    return `no: ${String(error instanceof Error ? error.message : error).split("\n")[0]}`;
  }
}

function raised(digits: string): string {
  return digits.replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)] ?? digit);
}

const rows = [`| model | ${Object.keys(providers).join(" | ")} |`, `| --- |${" --- |".repeat(4)}`];
for (const [name, config] of Object.entries(families)) {
  const reference = await inNode("cpu", config, 1);
  const cells: string[] = [];
  for (const train of Object.values(providers)) cells.push(await tried(train, config, reference));
  rows.push(`| ${name} | ${cells.join(" | ")} |`);
  console.log(rows.at(-1));
}
await browser.close();
await server.close();
const text = await readFile(page, "utf8");
const [start, end] = ["<!-- made by npm run providers -->", "<!-- end -->"];
await writeFile(page, text.replace(new RegExp(`${start}[^]*?${end}`), `${start}\n\n${rows.join("\n")}\n\n${end}`));
process.exit();
