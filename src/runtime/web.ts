import { TuneError } from "../errors.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import type { Storage } from "../io/storage.ts";
import type { Device } from "./device.ts";
import { anyProvider, openFastest } from "./fastest.ts";
import type { MemoryUse, Platform } from "./platform.ts";
import { type DeviceWorker, openRemoteDevice } from "./remote-device.ts";
import { openOrtWeb, type WebDeviceOptions, webProviders } from "./web-ort.ts";
import { webThreads } from "./web-threads.ts";

export { opfsStorage } from "./opfs-storage.ts";
export { natsConnect } from "./web-nats.ts";
export type { WebDeviceOptions };

/** A page whose files are where the storage keeps them: onnxruntime-web, web workers. */
export function webPlatformOn(storage: Storage): Platform {
  return {
    name: "web",
    storage,
    findModel: (source) => findWebModel(storage, source),
    memory: webMemory,
    providers: webProviders,
    openDevice: openWebDevice,
    threads: webThreads,
  };
}

/** A page with its files in memory, which are gone when it is closed. */
export const webPlatform: Platform = webPlatformOn(memoryStorage());

/** A page is told its machine's memory roughly, and WebAssembly addresses 4 GiB of it. What it takes, it is not told. */
function webMemory(): MemoryUse {
  const { deviceMemory = 4 } = navigator as { deviceMemory?: number }; // GiB; not in every browser
  return { processBytes: 0, availableBytes: Math.min(4, deviceMemory) * 2 ** 30 };
}

async function findWebModel(storage: Storage, source: string): Promise<string> {
  if ((await storage.list(source)).length > 0) return source;
  if (/^[\w.-]+\/[\w.-]+(@[\w./-]+)?$/.test(source)) {
    throw new TuneError("hub-unsupported", `A page cannot fetch ${source} from the hub yet.`, {
      fix: "fetch its files, write them to the platform's storage, and pass their folder",
    });
  }
  throw new TuneError("model-not-found", `The page's storage holds no folder ${source}.`, {
    fix: "write config.json, the tokenizer files and the safetensors to the platform's storage first",
  });
}

/**
 * Open a device on onnxruntime-web, on `wasm` unless `webgpu` is asked for; `auto` is the faster. It runs in a worker unless `worker` is
 * false. WebAssembly uses several threads only where the page is cross-origin isolated.
 * @throws {TuneError} `runtime-missing`, `unknown-provider`, `provider-unavailable`, or `worker-stopped`.
 */
export function openWebDevice(options: WebDeviceOptions = {}): Promise<Device> {
  if (options.provider === anyProvider) {
    return webProviders().then((names) => openFastest(names, (provider) => openWebDevice({ ...options, provider })));
  }
  return options.worker === false ? openOrtWeb(options) : openRemoteDevice(watch(startWorker()), options);
}

function startWorker(): Worker {
  // Bundlers look for this very expression.
  return new Worker(new URL("./web-worker.js", import.meta.url), { type: "module" });
}

function watch(worker: Worker): DeviceWorker {
  return {
    port: {
      send: (message, transfer) => worker.postMessage(message, transfer),
      receive: (handler) => worker.addEventListener("message", ({ data }) => handler(data)),
    },
    stopped: new Promise((resolve) => {
      worker.addEventListener("error", ({ message }) => resolve(message || "its script could not be loaded"));
      worker.addEventListener("messageerror", () => resolve("what it sent cannot be read"));
    }),
    terminate: async () => worker.terminate(),
  };
}
