import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ExportFormName, exportForms, exportModel, type LoadedModel, loadModel, quantize } from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { makeInputs } from "./helpers/writing-commands.ts";

/* A disk that is too small for an export is said before anything of it is computed or written. */

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-disk-"));
  await makeInputs(folder);
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** The model on a disk with so much left, which counts what is read of the weights. */
async function onDisk(free: number): Promise<LoadedModel> {
  const storage = { ...nodeStorage, freeBytes: async () => free };
  return loadModel(join(folder, "in/base"), { platform: { ...nodePlatform, storage } });
}

async function bytesIn(path: string): Promise<number> {
  const names = await readdir(path, { recursive: true });
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(path, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

const models = Object.entries(exportForms).flatMap(([form, { holds, dtypes }]) =>
  holds === "model" ? (dtypes.length === 0 ? [undefined] : dtypes).map((dtype) => ({ form, dtype })) : [],
);

describe.each(models)("$form in $dtype", ({ form, dtype }) => {
  const to = form as ExportFormName; // a key of the forms
  const options = {
    ...(dtype === undefined ? {} : { dtypes: [dtype] }),
    ...(form === "gguf" ? { preTokenizer: "gpt-2" } : {}),
  };

  it("is refused where the disk is too small, and nothing is left there; it takes what is said at least", async () => {
    const output = join(folder, `out-${form}-${dtype}`);
    const refused = exportModel(await onDisk(1000), to, output, options);
    await expect(refused).rejects.toMatchObject({
      code: "write-failed",
      message: expect.stringMatching(/cannot write .*: it takes [\d.]+ [MG]B, and 0.00 MB are free/),
    });
    await expect(stat(output)).rejects.toThrow();
    const least = Number(/it takes ([\d.]+) MB/.exec(String(await refused.catch(String)))?.[1]) * 1e6;
    await exportModel(await onDisk(1.01 * least + 1e4), to, output, options);
    const taken = await bytesIn(output);
    expect(taken).toBeGreaterThan(least - 1e4);
    await rm(output, { recursive: true });
  });
});

it("quantising is refused likewise", async () => {
  const output = join(folder, "packed");
  const refused = quantize(await onDisk(1000), undefined, { output, method: "rtn", bits: 4 });
  await expect(refused).rejects.toMatchObject({ code: "write-failed", message: expect.stringContaining("are free") });
  await expect(stat(output)).rejects.toThrow();
});

it("a disk tells what is free, of folders that are not there yet too", async () => {
  const free = await nodeStorage.freeBytes?.(join(folder, "not", "there", "yet"));
  expect(free).toBeGreaterThan(1e6);
});
