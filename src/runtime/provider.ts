import { TuneError } from "../errors.ts";
import type { Device } from "./device.ts";
import { identityModel } from "./identity-model.ts";

/**
 * The provider to use: the first available one when none is asked for.
 * @throws {TuneError} `unknown-provider`, naming those available.
 */
export function chooseProvider(
  asked: string | undefined,
  available: readonly string[],
  possible: readonly string[] = available,
): string {
  const provider = asked ?? available[0];
  if (provider !== undefined && possible.includes(provider)) return provider;
  throw new TuneError("unknown-provider", `there is no execution provider "${provider}" here.`, {
    fix: `use ${available.join(" or ")}`,
  });
}

/**
 * Standard operators beyond operator set 21 that a provider of ONNX Runtime 1.30 has kernels of its own for. Elsewhere
 * they are written as formulas: the WebGPU provider, for one, would hand them to the CPU and copy their operands.
 */
const laterKernels: Readonly<Record<string, readonly string[]>> = {
  cpu: ["RotaryEmbedding"],
  wasm: ["RotaryEmbedding"],
};

/** The operators beyond set 21 that run as they are on a provider. */
export function kernelsOf(provider: string): ReadonlySet<string> {
  return new Set(laterKernels[provider]);
}

/**
 * Operators that a provider computes less well than float32 can say. WGSL lets sines and cosines be wrong by 2⁻¹¹ from −π
 * to π and leaves open how wrong they are beyond (W3C, WebGPU Shading Language, accuracy of built-in functions).
 */
const roughKernels: Readonly<Record<string, readonly string[]>> = { webgpu: ["Sin", "Cos"] };

/** The operators that a provider computes roughly. */
export function roughKernelsOf(provider: string): ReadonlySet<string> {
  return new Set(roughKernels[provider]);
}

/** WebGPU promises eight buffers to a shader (`maxStorageBuffersPerShaderStage`): the parts of a split, and the whole. */
const partsAtOnce: Readonly<Record<string, number>> = { webgpu: 7 };

/** How many parts a provider can split a value into at once. */
export function splitPartsOf(provider: string): number {
  return partsAtOnce[provider] ?? Number.POSITIVE_INFINITY;
}

/**
 * Make sure that a device's provider starts on this machine, by compiling a program that does nothing.
 * @throws {TuneError} `provider-unavailable` with ONNX Runtime's reason; the device is then closed.
 */
export async function proveDevice(device: Device): Promise<Device> {
  try {
    await device.release(await device.compile({ model: identityModel("float32") }));
    return device;
  } catch (error) {
    await device.close();
    const [reason = "", ...more] = (error instanceof TuneError ? error.what : String(error)).split("\n");
    const what = [`the provider ${device.provider} does not start here: ${reason}`, ...more];
    throw new TuneError("provider-unavailable", what, {
      fix:
        device.provider === "webgpu" ? "use another provider, or install a driver for the GPU" : "use another provider",
      cause: error,
    });
  }
}
