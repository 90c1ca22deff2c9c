import { createRequire } from "node:module";
import type * as OrtNode from "onnxruntime-node";
import { TuneError } from "../errors.ts";
import { linuxCores } from "./cpu-limits.ts";
import type { Device, DeviceOptions } from "./device.ts";
import { freeBuffers } from "./node-memory.ts";
import { readSmall } from "./node-small-file.ts";
import { createOrtDevice } from "./ort-device.ts";
import { chooseProvider, proveDevice } from "./provider.ts";

type OrtNodeApi = Pick<typeof OrtNode, "InferenceSession" | "Tensor" | "env" | "listSupportedBackends">;

/** Execution providers that come with the installed onnxruntime-node. @throws {TuneError} `runtime-missing`. */
export async function nodeProviders(): Promise<readonly string[]> {
  const ort = loadOrt();
  return bundled(ort);
}

/** Execution providers that this onnxruntime-node can run, with libraries that may have to be installed first. */
export function possibleProviders(): readonly string[] {
  return loadOrt()
    .listSupportedBackends()
    .map(({ name }) => name)
    .sort((a, b) => Number(b === "cpu") - Number(a === "cpu"));
}

/**
 * Open a device in this thread.
 * @throws {TuneError} `runtime-missing`, `unknown-provider` or `provider-unavailable`.
 */
export async function openOrtNode(options: DeviceOptions): Promise<Device> {
  const ort = loadOrt();
  // A provider that is not bundled (cuda) works where its libraries have been installed.
  const provider = chooseProvider(options.provider, bundled(ort), possibleProviders());
  // Left to itself, ONNX Runtime binds each thread to a core, where it waits for whoever else computes there.
  const threads = options.threads ?? linuxCores(readSmall);
  const given = { ...options, ...(threads === undefined ? {} : { threads }) };
  const device = createOrtDevice(ort, { ...given, provider, freeBuffers, disk: true });
  return proveDevice(device);
}

function bundled(ort: OrtNodeApi): readonly string[] {
  return ort
    .listSupportedBackends()
    .filter((backend) => backend.bundled)
    .map(({ name }) => name)
    .sort((a, b) => Number(b === "cpu") - Number(a === "cpu"));
}

function loadOrt(): OrtNodeApi {
  try {
    // It is CommonJS, and loaders disagree on what `import()` makes of that; `require` gives the same everywhere.
    const ort: OrtNodeApi = createRequire(import.meta.url)("onnxruntime-node");
    ort.env.logLevel = "fatal"; // what goes wrong is thrown
    return ort;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new TuneError("runtime-missing", `onnxruntime-node cannot be loaded: ${reason}`, {
      fix: "npm install onnxruntime-node",
      cause: error,
    });
  }
}
