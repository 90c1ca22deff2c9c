import { expect, it } from "vitest";
import { createOrtDevice } from "./ort-device.ts";
import type { OrtApi } from "./ort-tensor.ts";

/** An ONNX Runtime whose programs have one output, y, and that notes what is freed. */
function fakeOrt(freed: string[], location: string): OrtApi {
  let sessions = 0;
  const create = async (): Promise<unknown> => {
    const name = `session ${++sessions}`;
    const y = {
      location,
      type: "float32",
      dims: [1],
      data: new Float32Array(1),
      dispose: () => freed.push(`y of ${name}`),
    };
    return { run: async () => ({ y }), release: async () => freed.push(name) };
  };
  return { InferenceSession: { create } } as unknown as OrtApi; // all that these programs need
}

it.each([
  ["webgpu", "gpu-buffer", ["y of session 1", "session 1"]],
  ["cpu", "cpu", ["session 1", "y of session 1"]],
])("on %s a released program with buffers that it made left is freed in order", async (provider, location, order) => {
  const freed: string[] = [];
  const device = createOrtDevice(fakeOrt(freed, location), { provider });
  const source = { model: new Uint8Array(), residentOutputs: ["y"] };
  const program = await device.compile(source);
  await device.run({ program, feeds: {}, writes: { y: "p" } });
  await device.release(program);
  await device.discard(["p"]);
  expect(freed).toEqual(order);
});

it("on WebGPU a released program is freed once another's buffer is in the place of its own, and at the latest at the end", async () => {
  const freed: string[] = [];
  const device = createOrtDevice(fakeOrt(freed, "gpu-buffer"), { provider: "webgpu" });
  const source = { model: new Uint8Array(), residentOutputs: ["y"] };
  const [first, second] = [await device.compile(source), await device.compile(source)];
  await device.run({ program: first, feeds: {}, writes: { y: "p" } });
  await device.release(first);
  await device.run({ program: second, feeds: {}, writes: { y: "p" } });
  await device.release(second);
  expect(freed).toEqual(["y of session 1", "session 1"]);
  await device.close();
  expect(freed).toEqual(["y of session 1", "session 1", "y of session 2", "session 2"]);
});
