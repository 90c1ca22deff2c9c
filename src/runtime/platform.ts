import type { Storage } from "../io/storage.ts";
import type { ThreadHost } from "../kernels/team.ts";
import type { Device, DeviceOptions } from "./device.ts";

/** What an environment offers. `node.ts` and `web.ts` each export one; nothing else asks where it is running. */
export interface Platform {
  readonly name: "node" | "web";
  readonly storage: Storage;
  /**
   * The local folder of a model given as a folder or as a hub id (`owner/name`, optionally `@revision`).
   * @throws {TuneError} `model-not-found`, or what fetching from the hub throws.
   */
  findModel(source: string, options?: FindModelOptions): Promise<string>;
  /** What this process takes and what is left to it, in bytes. */
  memory(): MemoryUse;
  /** Execution providers that this build of ONNX Runtime holds, the default first. */
  providers(): Promise<readonly string[]>;
  /**
   * Open a device.
   * @throws {TuneError} `runtime-missing`, `unknown-provider`, or `provider-unavailable` when it does not start here.
   */
  openDevice(options?: DeviceOptions): Promise<Device>;
  /** Threads for WebAssembly kernels. */
  readonly threads: ThreadHost;
}

/** Memory of a machine, from the point of view of this process. Bytes. */
export interface MemoryUse {
  readonly processBytes: number;
  /** What it can still take before the machine, a container or the runtime stops it. */
  readonly availableBytes: number;
}

/** What a caller may watch while a model is fetched. */
export interface FindModelOptions {
  readonly onDownload?: (progress: {
    readonly file: string;
    readonly doneBytes: number;
    readonly totalBytes: number | undefined;
  }) => void;
}
