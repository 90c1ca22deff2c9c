import { TuneError } from "../errors.ts";
import { checkNames, checkWhole, type NamesOf } from "../options.ts";
import type { Device, DeviceOptions } from "../runtime/device.ts";

/** Options of a device on any platform; `assets` is a page's. */
const deviceNames: NamesOf<DeviceOptions & { assets: string }> = {
  provider: true,
  threads: true,
  worker: true,
  assets: true,
};

/**
 * Check how a function is told where to run.
 * @throws {TuneError} `bad-option` for unknown names, threads that are no number, and options beside a device that is open.
 */
export function checkDevice({
  device,
  deviceOptions,
}: {
  readonly device?: Device | undefined;
  readonly deviceOptions?: DeviceOptions | undefined;
}): void {
  if (deviceOptions === undefined) return;
  checkNames(deviceOptions, deviceNames, "deviceOptions");
  checkWhole("threads", deviceOptions.threads, 1, "deviceOptions");
  if (device === undefined || Object.keys(deviceOptions).length === 0) return;
  throw new TuneError("bad-option", "These would do nothing: deviceOptions, for a device is given that is open.", {
    at: "device",
    fix: "give the device or its options, not both",
  });
}
