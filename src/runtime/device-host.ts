import { assert } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import type { Device, DeviceOptions } from "./device.ts";
import { type Call, type Port, packError, type Reply, type Traits, transferable } from "./port.ts";

/** Inside a worker: open the device that the other end asks for, and carry out its calls. */
export function serveDevice(port: Port, open: (options: DeviceOptions) => Promise<Device>): void {
  let device: Device | undefined;
  const perform = async ({ method, args }: Call): Promise<unknown> => {
    if (method === "open") {
      device = await open(args[0] as DeviceOptions); // what `openRemoteDevice` sent
      const { provider, patches = false, inPlace = false } = device;
      return { provider, patches, inPlace } satisfies Traits;
    }
    assert(device !== undefined, `${method} before the device was opened`);
    // `RemoteDevice` has these very methods, and sends the arguments that they were given.
    return Reflect.apply(device[method], device, args);
  };
  port.receive((message) => {
    const call = message as Call; // `openRemoteDevice`, at the other end, sends nothing else
    // What cannot be sent is an error that can: the other end waits for an answer to every call.
    perform(call)
      .then((result) => port.send({ id: call.id, result } satisfies Reply, arraysIn(result)))
      .catch((error: unknown) => port.send({ id: call.id, error: packError(error) } satisfies Reply, []));
  });
}

/** The buffers behind a downloaded tensor or a run's outputs; nobody here reads them again. */
function arraysIn(result: unknown): ArrayBuffer[] {
  if (typeof result !== "object" || result === null) return [];
  const tensors: readonly unknown[] = [result, ...Object.values(result)];
  return transferable(tensors.filter(isTensor).map(({ data }) => data));
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === "object" && value !== null && "data" in value && ArrayBuffer.isView(value.data);
}
