import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Browser, chromium } from "playwright-core";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Flags of a headless browser whose WebGPU needs no GPU: SwiftShader, a Vulkan driver in software, stands in. */
const flags = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-unsafe-swiftshader",
  "--ignore-gpu-blocklist",
];

/**
 * A headless Chromium: the one that comes with @sparticuz/chromium (Linux x64), else an installed Chrome or Edge.
 * Undefined when there is none.
 */
export async function launchChromium(): Promise<Browser | undefined> {
  const folder = await unpacked();
  const bundled = folder === undefined ? [] : [{ executablePath: join(folder, "chromium") }];
  const installed = ["chrome", "msedge", "chromium"].map((channel) => ({ channel }));
  for (const choice of [...bundled, ...installed]) {
    try {
      return await chromium.launch({ ...choice, headless: true, args: flags });
    } catch {
      // This one is not installed, or does not start on this system: try the next.
    }
  }
  return undefined;
}

/**
 * Environment variables that give a process WebGPU without a GPU, through Chromium's software Vulkan driver; they
 * must be set before it starts. Undefined where the driver does not run.
 */
export async function softwareVulkan(): Promise<Record<string, string> | undefined> {
  const folder = await unpacked();
  if (folder === undefined) return undefined;
  const libraries = [folder, process.env["LD_LIBRARY_PATH"]].filter((path) => path !== undefined);
  return { LD_LIBRARY_PATH: libraries.join(":"), VK_ICD_FILENAMES: join(folder, "vk_swiftshader_icd.json") };
}

/**
 * The folder that holds what @sparticuz/chromium packs. It unpacks into the temporary folder, file by file, so a
 * second process can meet a half-written browser: here it does so aside, and the result takes its name when complete.
 */
async function unpacked(): Promise<string | undefined> {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const manifest = join(dirname(createRequire(import.meta.url).resolve("@sparticuz/chromium")), "../../package.json");
  const { version } = JSON.parse(await readFile(manifest, "utf8")) as { version: string }; // npm made the file
  const folder = join(root, "node_modules/.cache/scionwood", `chromium-${version}`);
  if (existsSync(folder)) return folder;
  const staging = `${folder}.${process.pid}`;
  await mkdir(staging, { recursive: true });
  const unpack = `(await import("@sparticuz/chromium")).default.executablePath()`;
  await promisify(execFile)(process.execPath, ["--input-type=module", "-e", `await ${unpack}`], {
    cwd: root,
    env: { ...process.env, TMPDIR: staging },
  });
  try {
    await rename(staging, folder);
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    if (!existsSync(folder)) throw error; // otherwise another process was first
  }
  return folder;
}
