import { expect, it } from "vitest";
import { TuneError } from "../errors.ts";
import type { Device } from "./device.ts";
import { openFastest } from "./fastest.ts";
import { openNodeDevice } from "./node.ts";

/** A device that takes a while over each run. */
async function slowed(ms: number, closed: string[], name: string): Promise<Device> {
  const device = await openNodeDevice({ worker: false, threads: 1 });
  return {
    provider: name,
    compile: (source) => device.compile(source),
    run: async (request) => {
      await new Promise((resolve) => setTimeout(resolve, ms));
      return device.run(request);
    },
    upload: (...given) => device.upload(...given),
    download: (...given) => device.download(...given),
    discard: (...given) => device.discard(...given),
    release: (program) => device.release(program),
    close: async () => {
      closed.push(name);
      await device.close();
    },
  };
}

it("opens the fastest of those that start, and closes the others", async () => {
  const closed: string[] = [];
  const delays: Readonly<Record<string, number>> = { slow: 400, quick: 0, slower: 500 };
  const device = await openFastest(["broken", ...Object.keys(delays)], async (name) => {
    const ms = delays[name];
    if (ms === undefined) throw new TuneError("provider-unavailable", "no driver.", {});
    return slowed(ms, closed, name);
  });
  expect(device.provider).toBe("quick");
  expect(closed).toEqual(["slow", "slower"]);
  await device.close();
});

it("says why none starts", async () => {
  const refuse = (): Promise<Device> => Promise.reject(new TuneError("provider-unavailable", "no driver.", {}));
  await expect(openFastest(["webgpu", "cuda"], refuse)).rejects.toMatchObject({
    code: "provider-unavailable",
    message: expect.stringContaining("none of webgpu, cuda starts here: no driver."),
  });
});

it("is what auto asks for", async () => {
  const device = await openNodeDevice({ provider: "auto", worker: false, threads: 2 });
  expect(["cpu", "webgpu", "cuda"]).toContain(device.provider);
  await device.close();
});
