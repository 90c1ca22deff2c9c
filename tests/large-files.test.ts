import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openOnnx } from "../src/io/onnx/read.ts";
import { message, messageField, serialise, stringField, varintField } from "../src/io/onnx/wire.ts";
import { openSafetensors } from "../src/io/safetensors.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";

/** Where the last tensor starts: past 2 GiB and past 4 GiB, where 32-bit offsets end. */
const far = 5 * 2 ** 30;
const values = Float32Array.of(1.5, -2, 3.25, 4);
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-large-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** A file with `head` at its start and the values at `at`; what lies between takes no room on the disk. */
async function sparse(path: string, head: Uint8Array, at: number): Promise<void> {
  await writeFile(path, head);
  const handle = await open(path, "r+");
  await handle.write(new Uint8Array(values.buffer), 0, values.byteLength, at);
  await handle.close();
}

describe("files over 4 GiB", () => {
  it("of safetensors are read by range", async () => {
    const path = join(folder, "model.safetensors");
    const tensors = {
      filler: { dtype: "F32", shape: [far / 4], data_offsets: [0, far] },
      last: { dtype: "F32", shape: [4], data_offsets: [far, far + 16] },
    };
    const header = new TextEncoder().encode(JSON.stringify(tensors));
    const head = new Uint8Array(8 + header.length);
    new DataView(head.buffer).setBigUint64(0, BigInt(header.length), true);
    head.set(header, 8);
    await sparse(path, head, head.length + far);
    const file = await openSafetensors(nodeStorage, path);
    expect((await file.tensors.get("last")?.read())?.data).toEqual(values);
  });

  it("of ONNX weights beside a model are read by range", async () => {
    await sparse(join(folder, "model.onnx_data"), new Uint8Array(), far);
    const entry = (key: string, value: string): ReturnType<typeof messageField> =>
      messageField(13, [stringField(1, key), stringField(2, value)]);
    const place = [entry("location", "model.onnx_data"), entry("offset", String(far)), entry("length", "16")];
    const weight = [varintField(1, 4), varintField(2, 1), stringField(8, "w"), ...place, varintField(14, 1)];
    const graph = [stringField(2, "g"), messageField(5, weight)];
    const model = [varintField(1, 10), messageField(8, [varintField(2, 21)]), messageField(7, graph)];
    await writeFile(join(folder, "model.onnx"), serialise(message(model)));
    const read = await openOnnx(nodeStorage, join(folder, "model.onnx"));
    expect((await read.initializers.get("w")?.read())?.data).toEqual(values);
  });
});
