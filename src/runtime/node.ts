import { Worker } from "node:worker_threads";
import { TuneError } from "../errors.ts";
import type { Device, DeviceOptions } from "./device.ts";
import { anyProvider, openFastest } from "./fastest.ts";
import { nodeMemory } from "./node-memory.ts";
import { findNodeModel } from "./node-models.ts";
import { nodeProviders, openOrtNode, possibleProviders } from "./node-ort.ts";
import { nodeStorage } from "./node-storage.ts";
import { nodeThreads } from "./node-threads.ts";
import type { Platform } from "./platform.ts";
import { type DeviceWorker, openRemoteDevice } from "./remote-device.ts";

/** Node: onnxruntime-node, files on the disk, worker threads. */
export { natsConnect } from "./node-nats.ts";
export { writeError } from "./node-storage.ts";

export const nodePlatform: Platform = {
  name: "node",
  storage: nodeStorage,
  findModel: findNodeModel,
  memory: nodeMemory,
  providers: nodeProviders,
  openDevice: openNodeDevice,
  threads: nodeThreads,
};

/** What can be asked for as a provider: those of this onnxruntime-node, and `auto`. @throws {TuneError} `runtime-missing`. */
export function knownProviders(): readonly string[] {
  return [...possibleProviders(), anyProvider];
}

/**
 * Open a device on onnxruntime-node, on `cpu` unless another provider is asked for; `auto` is the fastest that starts. It runs in a worker thread unless
 * `worker` is false: a run blocks its thread. The thread keeps the process alive while calls are under way, and no longer;
 * closing the device ends it and frees its memory.
 * @throws {TuneError} `runtime-missing`, `unknown-provider`, `provider-unavailable`, `worker-stopped`, or `device-closed`
 * after {@link closeDevices}.
 */
export async function openNodeDevice(options: DeviceOptions = {}): Promise<Device> {
  if (leaving) throw new TuneError("device-closed", "the process is ending, so no device is opened any more.");
  if (options.provider === anyProvider) {
    return openFastest(possibleProviders(), (provider) => openNodeDevice({ ...options, provider }));
  }
  return options.worker === false ? openOrtNode(options) : openInWorker(options);
}

/** Devices whose workers have not ended. */
const open = new Set<Device>();

/** Devices that are being opened. */
const opening = new Set<Promise<Device>>();

/** The process is about to end: a worker that is started now would be computing then, and take the process down. */
let leaving = false;

/** Close every device that runs in a worker, after the calls that are under way, and open none any more: before the process is ended. */
export async function closeDevices(): Promise<void> {
  leaving = true;
  await Promise.allSettled(opening);
  await Promise.all([...open].map((device) => device.close()));
}

async function openInWorker(options: DeviceOptions): Promise<Device> {
  const worker = startWorker();
  const started = openRemoteDevice(watch(worker), options);
  opening.add(started);
  try {
    const device = await started;
    open.add(device);
    worker.once("exit", () => open.delete(device));
    return device;
  } finally {
    opening.delete(started);
  }
}

function startWorker(): Worker {
  if (import.meta.url.endsWith(".js")) return new Worker(new URL("./node-worker.js", import.meta.url));
  // Running from the sources: Node 20 workers cannot be given a TypeScript entry, so tsx is registered inside.
  const entry = JSON.stringify(new URL("./node-worker.ts", import.meta.url).href);
  const start = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); })`;
  return new Worker(start, { eval: true });
}

function watch(worker: Worker): DeviceWorker {
  return {
    port: {
      send: (message, transfer) => worker.postMessage(message, transfer),
      receive: (handler) => worker.on("message", handler),
    },
    stopped: new Promise((resolve) => {
      worker.on("error", (error) => resolve(error instanceof Error ? error.message : String(error)));
      worker.on("messageerror", (error) => resolve(error.message));
      worker.on("exit", (code) => resolve(`it exited with code ${code}`));
    }),
    keepAlive: (needed) => (needed ? worker.ref() : worker.unref()),
    terminate: async () => {
      await worker.terminate();
    },
  };
}
