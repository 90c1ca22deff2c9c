import { TuneError } from "../errors.ts";
import { checkNames, checkWhole, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";
import type { Platform } from "../runtime/platform.ts";

/** Options of a device on any platform; `assets` is a page's. */
const deviceNames: NamesOf<DeviceOptions & { assets: string }> = {
  provider: true,
  threads: true,
  worker: true,
  assets: true,
};

/** Where a function runs, as it is told. */
export interface RunPlace {
  readonly device?: Device | undefined;
  readonly deviceOptions?: DeviceOptions | undefined;
}

/** The execution provider that a function will run on: that of a device, or of the one that would be opened. */
export async function providerOf(platform: Platform, { device, deviceOptions }: RunPlace): Promise<string> {
  return device?.provider ?? deviceOptions?.provider ?? (await platform.providers())[0] ?? "cpu";
}

/**
 * Check how a function is told where to run.
 * @throws {TuneError} `bad-option` for unknown names, threads that are no number, and options beside a device that is open.
 */
export function checkDevice({ device, deviceOptions }: RunPlace): void {
  if (deviceOptions === undefined) return;
  checkNames(deviceOptions, deviceNames, "deviceOptions");
  checkWhole("threads", deviceOptions.threads, 1, "deviceOptions");
  if (device === undefined || Object.keys(deviceOptions).length === 0) return;
  throw new TuneError("bad-option", "These would do nothing: deviceOptions, for a device is given that is open.", {
    at: "device",
    fix: "give the device or its options, not both",
  });
}
