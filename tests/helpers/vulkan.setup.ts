import { softwareVulkan } from "./chromium.ts";

/**
 * Before any test process starts, give those to come a Vulkan driver in software, so that WebGPU runs in Node without
 * a GPU, and gives every machine the same results.
 */
export async function setup(): Promise<void> {
  Object.assign(process.env, await softwareVulkan());
}
