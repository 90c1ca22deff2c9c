import { bytesOf, type Tensor } from "../../src/graph/index.ts";
import { contentHash } from "../../src/io/content-hash.ts";
import type { Device } from "../../src/runtime/device.ts";

/**
 * Watch a device: `tell` hears of what is compiled, fed, placed and read back, in order, as hashes of the bytes; names of
 * buffers are left out. Closing what is watched leaves the device itself open.
 */
export function watchedDevice(device: Device, tell: (line: string) => void): Device {
  const note = (what: string, ...parts: readonly (Uint8Array | string)[]): void => {
    tell(`${what} ${contentHash(...parts)}`);
  };
  const noteAll = (what: string, tensors: Readonly<Record<string, Tensor>>): void => {
    for (const [name, tensor] of Object.entries(tensors)) note(`${what} ${name}`, ...partsOf(tensor));
  };
  return {
    provider: device.provider,
    patches: device.patches === true,
    inPlace: device.inPlace === true,
    compile: (source) => {
      note("model", source.model, JSON.stringify([source.residentOutputs, source.tuning]));
      for (const { data } of source.externalData ?? []) note("data", data);
      noteAll("weight", source.weights ?? {});
      return device.compile(source);
    },
    run: async (request) => {
      noteAll("feed", request.feeds);
      const outputs = await device.run(request);
      noteAll("output", outputs);
      return outputs;
    },
    upload: (name, tensor, how) => {
      note("upload", ...partsOf(tensor));
      return device.upload(name, tensor, how);
    },
    download: async (name) => {
      const tensor = await device.download(name);
      note("download", ...partsOf(tensor));
      return tensor;
    },
    discard: (names) => device.discard(names),
    release: (program) => device.release(program),
    close: async () => undefined,
  };
}

function partsOf({ dtype, shape, data }: Tensor): readonly (Uint8Array | string)[] {
  return [`${dtype} ${shape}`, bytesOf(data)];
}
