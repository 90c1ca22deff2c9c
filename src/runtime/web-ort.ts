import type * as OrtWeb from "onnxruntime-web";
import { TuneError } from "../errors.ts";
import type { Device, DeviceOptions } from "./device.ts";
import { createOrtDevice } from "./ort-device.ts";
import { chooseProvider, proveDevice } from "./provider.ts";

/** What a page may choose besides. */
export interface WebDeviceOptions extends DeviceOptions {
  /** URL of the folder that holds ONNX Runtime's `.wasm` files, ending in `/`; beside its module when absent. */
  readonly assets?: string;
}

/** Execution providers that this page can use. WebGPU is listed where the browser finds an adapter. */
export async function webProviders(): Promise<readonly string[]> {
  return (await hasWebGpu()) ? ["wasm", "webgpu"] : ["wasm"];
}

/**
 * Open a device in this thread.
 * @throws {TuneError} `runtime-missing`, `unknown-provider` or `provider-unavailable`.
 */
export async function openOrtWeb(options: WebDeviceOptions): Promise<Device> {
  const provider = chooseProvider(options.provider, await webProviders());
  const ort = await loadOrt(provider);
  ort.env.logLevel = "error";
  // Without cross-origin isolation there is no shared memory, and ONNX Runtime keeps to one thread.
  if (options.threads !== undefined && crossOriginIsolated) ort.env.wasm.numThreads = options.threads;
  if (options.assets !== undefined) ort.env.wasm.wasmPaths = options.assets;
  return proveDevice(createOrtDevice(ort, { provider }));
}

async function hasWebGpu(): Promise<boolean> {
  // The DOM types in use do not know `navigator.gpu`.
  const { gpu } = navigator as { readonly gpu?: { requestAdapter(): Promise<unknown> } };
  return gpu !== undefined && (await gpu.requestAdapter()) !== null;
}

async function loadOrt(provider: string): Promise<typeof OrtWeb> {
  try {
    // Two builds: the one with WebGPU is larger, and suspends WebAssembly to wait for the GPU.
    return provider === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new TuneError("runtime-missing", `onnxruntime-web cannot be loaded: ${reason}`, {
      fix: "npm install onnxruntime-web",
      cause: error,
    });
  }
}
