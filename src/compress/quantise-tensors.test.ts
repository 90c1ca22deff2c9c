import { expect, it } from "vitest";
import { golden } from "../../tests/helpers/golden.ts";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { bytesOf, type LazyTensor, tensor } from "../graph/index.ts";
import { contentHash } from "../io/content-hash.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { keptAs, type PackedEntry, type PackedToWrite } from "../io/packed/index.ts";
import { openSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { openModel } from "../models/index.ts";
import { chooseScheme, schemes } from "../quant/index.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { sequencesOf } from "../train/data/index.ts";
import { quantiseModel } from "./quantise-model.ts";
import { quantiseTensors } from "./quantise-tensors.ts";
import { openWorkFolder } from "./work-folder.ts";

async function hashOf(entries: readonly (PackedToWrite | PackedEntry)[] = []): Promise<string> {
  const parts: string[] = [];
  for (const entry of entries) {
    const { planes, scales, zeros, order } = "matrix" in entry ? entry.matrix : await entry.read();
    const arrays = [planes, scales, zeros, order].flatMap((array) => (array ? [bytesOf(array)] : []));
    parts.push(entry.name + contentHash(...arrays));
  }
  return contentHash(...parts);
}

// Schemes that need no text at their own options; whoever adds one adds the hash of what it makes of the model at 3 bits.
const hashes: Readonly<Record<string, string>> = {
  rtn: "cfa5fd9bc2ac302e067af7b60c4d577c",
  bcq: "f9e0bb57b0a3eb455d47502117546ff3",
};

it("is made of the tensors alone by every scheme that needs no text, to the bytes that text gives", async () => {
  const free = [...schemes.values()].filter((scheme) => !scheme.needsCalibration(chooseScheme(scheme.name).config));
  expect(free.map(({ name }) => name).sort()).toEqual(Object.keys(hashes).sort());
  const model = await randomModel();
  const device = await openNodeDevice({ worker: false, threads: 1 });
  for (const { name } of free) {
    const choice = chooseScheme(name);
    const alone = await quantiseTensors({ model, choice, bits: 3 });
    expect(await hashOf(alone?.matrices)).toBe(hashes[name]);
    const sequences = randomExamples(16).flatMap(sequencesOf);
    const measured = await quantiseModel({ device, model, sequences, padId: 0, choice, bits: 3 });
    expect(await hashOf(measured?.matrices)).toBe(hashes[name]);
    expect(alone?.reports.map(({ weightError }) => weightError)).toEqual(
      measured?.reports.map(({ weightError }) => weightError),
    );
    expect(alone?.reports.every(({ outputError }) => outputError === undefined)).toBe(true);
  }
  await device.close();
});

it("goes on from the blocks that are done, holds one block's codes, and tells the time left", async () => {
  const storage = memoryStorage();
  const model = await openModel(nodeStorage, golden("gpt2-tiny")); // weights stored [in, out]
  const choice = chooseScheme("rtn", { groupSize: 16 });
  const whole = await quantiseTensors({ model, choice, bits: 4 });
  const total = whole?.reports.length ?? 0;
  const stop = new AbortController();
  const work = await openWorkFolder(storage, "w", { bits: 4 }, { resume: false });
  const left: number[] = [];
  const stopped = await quantiseTensors({
    model,
    choice,
    bits: 4,
    work,
    signal: stop.signal,
    onEvent: (event) => {
      if (event.kind !== "matrix") return;
      left.push(event.remainingMs);
      if (event.done === total / 2 + 1) stop.abort();
    },
  });
  expect(stopped).toBeUndefined();
  expect(left.every((ms) => ms > 0)).toBe(true);
  const again = await openWorkFolder(storage, "w", { bits: 4 }, { resume: true });
  const done: number[] = [];
  const resumed = await quantiseTensors({
    model,
    choice,
    bits: 4,
    work: again,
    onEvent: (event) => event.kind === "matrix" && done.push(event.done),
  });
  expect(done).toEqual(Array.from({ length: total / 2 }, (_, i) => total / 2 + 1 + i));
  expect(resumed?.reports).toEqual(whole?.reports);
  expect(resumed?.matrices.every((entry) => "parts" in entry)).toBe(true); // on the disk, every one
  expect(await hashOf(resumed?.matrices)).toBe(await hashOf(whole?.matrices));
});

it("what is kept as it is is converted and written a part at a time", async () => {
  const size = 2 ** 22 + 5;
  const data = Float32Array.from({ length: size }, (_, i) => (i % 1000) / 16);
  const asked: number[] = [];
  const source: LazyTensor = {
    dtype: "float32",
    shape: [size],
    sizeBytes: 4 * size,
    read: () => Promise.reject(new Error("read whole")),
    readPart: async (start, end) => {
      asked.push(end - start);
      return data.slice(start, end);
    },
  };
  const storage = memoryStorage();
  await writeSafetensors(storage, "kept", [{ name: "w", tensor: keptAs(source, "float16") }]);
  expect(asked).toEqual([...Array(4).fill(2 ** 20), 5]);
  const read = await (await openSafetensors(storage, "kept")).tensors.get("w")?.read();
  const whole = await keptAs(tensorOf(data), "float16").read();
  expect(read?.dtype).toBe("float16");
  expect(contentHash(bytesOf(read?.data ?? data))).toBe(contentHash(bytesOf(whole.data))); // compared by content: it is large
});

function tensorOf(data: Float32Array): LazyTensor {
  const whole = tensor("float32", [data.length], data);
  return { dtype: "float32", shape: whole.shape, sizeBytes: data.byteLength, read: async () => whole };
}
