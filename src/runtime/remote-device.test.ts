import { expect, it } from "vitest";
import { TuneError } from "../errors.ts";
import { tensor } from "../graph/index.ts";
import type { Device } from "./device.ts";
import { serveDevice } from "./device-host.ts";
import type { Port } from "./port.ts";
import { openRemoteDevice } from "./remote-device.ts";

const idle: Device = {
  provider: "none",
  compile: async () => 1,
  run: async () => ({}),
  upload: async () => undefined,
  download: async () => tensor("float32", [1], 0),
  discard: async () => undefined,
  release: async () => undefined,
  close: async () => undefined,
};

/** Both ends of a channel that clones and moves as a worker's does. */
function channel(): readonly [Port, Port] {
  const { port1, port2 } = new MessageChannel();
  const end = (port: MessagePort): Port => ({
    send: (message, transfer) => port.postMessage(message, transfer),
    receive: (handler) => {
      port.onmessage = ({ data }) => handler(data);
    },
  });
  return [end(port1), end(port2)];
}

/** A remote device whose other end is `device`, in this thread. */
async function remote(device: Partial<Device>) {
  const [port, host] = channel();
  let stop = (_reason: string): void => undefined;
  let terminated = false;
  const stopped = new Promise<string>((resolve) => {
    stop = resolve;
  });
  serveDevice(host, async () => ({ ...idle, ...device }));
  const terminate = async () => {
    terminated = true;
  };
  const opened = await openRemoteDevice({ port, stopped, terminate }, {});
  return { device: opened, stop, isTerminated: () => terminated };
}

it("brings coded errors across whole, and other errors with their stack", async () => {
  const sent = new TuneError("run-failed", ["it broke:", "  at once"], { at: "node a", fix: "mend it" });
  const bug = new RangeError("a bug");
  const { device } = await remote({
    run: () => Promise.reject(sent),
    download: () => Promise.reject(bug),
  });
  const error = await device.run({ program: 1, feeds: {} }).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(TuneError);
  const { code, what, at, fix, message } = sent;
  expect(error).toMatchObject({ code, what, at, fix, message });
  await expect(device.download("b")).rejects.toMatchObject({ message: "a bug", stack: bug.stack });
  await device.close();
});

it("rejects calls under way, and all later ones, once the worker has stopped", async () => {
  const { device, stop } = await remote({ run: () => new Promise(() => undefined) });
  const underWay = device.run({ program: 1, feeds: {} });
  stop("it exited with code 1");
  await expect(underWay).rejects.toMatchObject({ code: "worker-stopped", what: expect.stringContaining("code 1") });
  await expect(device.download("b")).rejects.toMatchObject({ code: "worker-stopped" });
  await device.close();
});

it("ends the worker when it closes, after the calls under way", async () => {
  const { device, isTerminated } = await remote({ provider: "cpu" });
  expect(device.provider).toBe("cpu");
  const underWay = device.download("b");
  await device.close();
  expect((await underWay).shape).toEqual([1]);
  expect(isTerminated()).toBe(true);
  await expect(device.download("b")).rejects.toMatchObject({ code: "device-closed" });
});

it("moves external data, and copies feeds", async () => {
  const { device } = await remote({});
  const data = new Uint8Array(8);
  await device.compile({ model: new Uint8Array(1), externalData: [{ path: "w", data }] });
  expect(data.byteLength).toBe(0);
  const x = tensor("float32", [2], 1);
  await device.run({ program: 1, feeds: { x } });
  expect(x.data.length).toBe(2);
  await device.close();
});
