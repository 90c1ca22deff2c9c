import { TuneError } from "../../src/errors.ts";
import type { Device } from "../../src/runtime/device.ts";

/** A device that knows what is on it, and fails when it is told to. */
export interface CountingDevice extends Device {
  /** Programs and buffers that nobody has freed. */
  left(): { readonly programs: number; readonly buffers: readonly string[] };
  /** Calls that make or compute something, so far. */
  readonly calls: number;
  /** Let the n-th such call from now on fail; undefined lets none. */
  failAt(call: number | undefined): void;
}

/** Watch a device. Closing what is watched leaves the device itself open. */
export function countingDevice(device: Device): CountingDevice {
  const programs = new Set<number>();
  const buffers = new Set<string>();
  let calls = 0;
  let failing: number | undefined;
  const count = (): void => {
    calls++;
    if (calls === failing) throw new TuneError("run-failed", "injected");
  };
  return {
    provider: device.provider,
    patches: device.patches === true,
    get calls() {
      return calls;
    },
    left: () => ({ programs: programs.size, buffers: [...buffers] }),
    failAt: (call) => {
      failing = call === undefined ? undefined : calls + call;
    },
    compile: async (source) => {
      count();
      const program = await device.compile(source);
      programs.add(program);
      return program;
    },
    run: async (request) => {
      count();
      const outputs = await device.run(request);
      for (const to of Object.values(request.writes ?? {}))
        for (const name of typeof to === "string" ? [to] : to.map(({ buffer }) => buffer)) buffers.add(name);
      return outputs;
    },
    upload: async (name, tensor) => {
      count();
      await device.upload(name, tensor);
      buffers.add(name);
    },
    download: async (name) => {
      count();
      return device.download(name);
    },
    discard: async (names) => {
      for (const name of names) buffers.delete(name);
      await device.discard(names);
    },
    release: async (program) => {
      programs.delete(program);
      await device.release(program);
    },
    close: async () => undefined,
  };
}
