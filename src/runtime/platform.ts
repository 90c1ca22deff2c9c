import type { Storage } from "../io/storage.ts";
import type { Device, DeviceOptions } from "./device.ts";

/** What an environment offers. `node.ts` and `web.ts` each export one; nothing else asks where it is running. */
export interface Platform {
  readonly name: "node" | "web";
  readonly storage: Storage;
  /** Execution providers that this build of ONNX Runtime holds, the default first. */
  providers(): Promise<readonly string[]>;
  /**
   * Open a device.
   * @throws {TuneError} `runtime-missing`, `unknown-provider`, or `provider-unavailable` when it does not start here.
   */
  openDevice(options?: DeviceOptions): Promise<Device>;
}
