import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { TuneError } from "../../errors.ts";
import { type LazyTensor, type Tensor, tensor } from "../../graph/index.ts";
import { createRng } from "../../linalg/index.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { castTensor } from "../convert.ts";
import { memoryStorage } from "../memory-storage.ts";
import { openSafetensors, type Safetensors, writeSafetensors } from "../safetensors.ts";
import { describeQuantisation, openQuantised } from "./open.ts";
import { refusedFormats } from "./refused.ts";
import { readSaidQuantisation, type SaidQuantisation, withoutQuantisation } from "./settings.ts";
import { quantisedFormats } from "./table.ts";

const path = fileURLToPath(new URL("../../../tests/golden/quantised.safetensors", import.meta.url));
let golden: Safetensors;
beforeAll(async () => {
  golden = await openSafetensors(nodeStorage, path);
});

/** The tensors of a sample as those of a module, and what config.json would say. */
async function sampleOf(
  name: string,
): Promise<{ readonly files: Map<string, LazyTensor>; readonly said: SaidQuantisation | undefined; expected: Tensor }> {
  const own = [...golden.tensors].filter(([key]) => key.startsWith(`${name}/`));
  const parts = own.map(([key, lazy]) => [key.slice(name.length + 1), lazy] as const);
  const files = new Map(parts.filter(([part]) => part !== "expected").map(([part, lazy]) => [`m.0.${part}`, lazy]));
  const expected = await golden.tensors.get(`${name}/expected`)?.read();
  if (!expected) throw new Error(`tests/golden/quantised.safetensors has no sample ${name}`);
  const json = JSON.parse(golden.metadata[name] ?? "{}");
  const said = await readSaidQuantisation(memoryStorage(), "", { quantization_config: json });
  return { files, said, expected };
}

const samples = quantisedFormats.flatMap((format) => format.samples.map((name) => ({ format, name })));

describe("formats of quantised checkpoints", () => {
  it("each has a sample, and each sample a format", () => {
    expect(quantisedFormats.filter(({ samples }) => samples.length === 0)).toEqual([]);
    const made = [...golden.tensors.keys()].filter((key) => key.endsWith("/expected") && !key.startsWith("float8/"));
    expect(made.map((key) => key.replace("/expected", "")).sort()).toEqual(samples.map(({ name }) => name).sort());
    const names = [...quantisedFormats, ...refusedFormats].map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  });

  it.each(samples)(
    "$name: recognised by its tensors, and the weights are those of its formula",
    async ({ format, name }) => {
      const { files, said, expected } = await sampleOf(name);
      const other: LazyTensor = {
        dtype: "float32",
        shape: [3],
        sizeBytes: 12,
        read: async () => tensor("float32", [3], 1),
      };
      const opened = await openQuantised(new Map([...files, ["m.0.bias", other]]), said, "folder");
      expect([...opened.tensors.keys()].sort()).toEqual(["m.0.bias", "m.0.weight"]);
      expect(opened.quantised.map(({ format: found, matrices }) => [found, matrices])).toEqual([[format.name, 1]]);
      expect(describeQuantisation(opened.quantised)).toContain(format.name);
      const lazy = opened.tensors.get("m.0.weight");
      const read = await lazy?.read();
      expect([lazy?.shape, read?.shape, lazy?.sizeBytes]).toEqual([
        expected.shape,
        expected.shape,
        4 * expected.data.length,
      ]);
      // float32 of products that the golden forms in float64
      const [own, right] = [read, expected].map((given) => Float64Array.from(given?.data ?? [], Number));
      const errors = Array.from(
        right ?? [],
        (value, i) => Math.abs(value - (own?.[i] ?? 0)) / (1e-3 + Math.abs(value)),
      );
      const worst = errors.reduce((most, error) => Math.max(most, error), 0);
      expect(worst).toBeLessThan(3e-7);
      // Nobody keeps what was read: it can be read again, and given away.
      expect(await lazy?.read()).toEqual(read);
    },
  );

  it("turns the weights of modules that the model has the other way round", async () => {
    const { files, said, expected } = await sampleOf("gptq-4");
    const opened = await openQuantised(files, said, "folder", { inOut: /^m\.0$/ });
    const read = await opened.tensors.get("m.0.weight")?.read();
    const [rows = 0, columns = 0] = expected.shape;
    expect(read?.shape).toEqual([columns, rows]);
    expect(read?.data[1]).toBeCloseTo(Number(expected.data[columns]), 6);
  });

  it.each(samples)("$name: a part of another shape, or none, is an error that names the module", async ({ name }) => {
    const { files, said, expected } = await sampleOf(name);
    for (const [key, lazy] of files) {
      if (/input_scale|weight_format|zero_point$/.test(key)) continue; // may be absent
      const fewer = new Map([...files].filter(([other]) => other !== key));
      const opened = await openQuantised(fewer, said, "folder").catch((error: unknown) => error);
      const left = opened instanceof Error ? [] : [...(opened as { tensors: Map<string, LazyTensor> }).tensors];
      // What is left unexplained is refused where weights are matched: codes are no floats, and other parts nobody's.
      if (!(opened instanceof Error)) expect(left.length).toBeGreaterThan(0);
      else expect(opened).toMatchObject({ code: "bad-quantised-weights", message: expect.stringContaining("m.0") });
      if (lazy.shape.length === 0 || key.includes("quant_state")) continue; // whose length is that of a text
      const longer = { ...lazy, shape: lazy.shape.map((size) => size + 1), sizeBytes: lazy.sizeBytes * 2 };
      const result = await openQuantised(new Map([...files, [key, longer]]), said, "folder").catch((error) => error);
      // One scale, and blocks, fit matrices of other sizes: these are told from the model's.
      const grown = (result as { tensors?: Map<string, LazyTensor> }).tensors?.get("m.0.weight");
      if (grown && key === "m.0.weight") expect(grown.shape).not.toEqual(expected.shape);
      else expect(result).toMatchObject({ code: "bad-quantised-weights", message: expect.stringContaining("m.0") });
    }
  });

  it.each(samples)(
    "$name: damaged settings and shapes end in a coded error or in weights, and nothing else",
    async ({ name }) => {
      const { files, said } = await sampleOf(name);
      const random = createRng(20261130, name);
      const pick = <T>(items: readonly T[]): T => items[Math.floor(random.uniform() * items.length)] as T;
      const odd = [0, -1, 1, 3, 7, 1e9, 0.5, Number.NaN, null, "4", "x", [], [0, 0], [128], {}, true];
      const keys = "bits group_size num_bits checkpoint_format format version mode desc_act weight_block_size".split(
        " ",
      );
      for (let round = 0; round < 60; round++) {
        const settings = { ...said?.settings, [pick(keys)]: pick(odd), [pick(keys)]: pick(odd) };
        const changed = new Map(files);
        const [key, lazy] = pick([...files]);
        const shape = lazy.shape.map((size) => pick([size, size, 0, 1, size * 2, size + 1]));
        const data = { read: async () => tensor(lazy.dtype, shape, 1) };
        if (!key.includes("quant_state")) changed.set(key, { ...lazy, ...data, shape, sizeBytes: lazy.sizeBytes });
        if (pick([true, false])) changed.delete(pick([...files])[0]);
        const ended = await openQuantised(changed, { at: "", method: undefined, modules: {}, settings }, "folder")
          .then(async ({ tensors }) => tensors.get("m.0.weight")?.read())
          .catch((error: unknown) => error);
        if (ended instanceof Error)
          expect(ended, `${key} [${shape}] ${JSON.stringify(settings)}`).toBeInstanceOf(TuneError);
      }
    },
  );

  it("refuses groups that have no scales when the matrix is read", async () => {
    const { files, said } = await sampleOf("gptq-4-order");
    const index = files.get("m.0.g_idx");
    if (!index) throw new Error("the sample has an order");
    const far = { ...index, read: async () => tensor("int32", index.shape, 2) };
    const opened = await openQuantised(new Map([...files, ["m.0.g_idx", far]]), said, "folder");
    await expect(opened.tensors.get("m.0.weight")?.read()).rejects.toMatchObject({ code: "bad-quantised-weights" });
  });
});

describe("formats that are not read", () => {
  const plain = new Map<string, LazyTensor>();
  const saying = (method: string): Promise<SaidQuantisation | undefined> =>
    readSaidQuantisation(memoryStorage(), "", { quantization_config: { quant_method: method } });

  it.each(refusedFormats.flatMap(({ methods, name }) => methods.map((method) => ({ method, name }))))(
    "$method is refused as $name",
    async ({ method, name }) => {
      await expect(openQuantised(plain, await saying(method), "folder")).rejects.toMatchObject({
        code: "quantisation-unsupported",
        message: expect.stringContaining(name),
      });
    },
  );

  it("a method that nobody knows is refused with the nearest name", async () => {
    await expect(openQuantised(plain, await saying("gptqq"), "folder")).rejects.toMatchObject({
      code: "quantisation-unsupported",
      message: expect.stringContaining("did you mean gptq?"),
    });
  });

  it.each([
    ["HQQ", { "m.W_q": "uint8", "m.meta": "uint8" }],
    ["AQLM", { "m.codes": "int8", "m.codebooks": "float16", "m.scales": "float16" }],
    ["NVFP4", { "m.weight": "uint8", "m.weight_scale": "float8e4m3fn", "m.weight_scale_2": "float32" }],
    ["NVFP4", { "m.weight_packed": "uint8", "m.weight_scale": "float8e4m3fn", "m.weight_global_scale": "float32" }],
    ["BitNet", { "m.weight": "uint8", "m.weight_scale": "bfloat16" }],
    ["EETQ", { "m.weight": "int8", "m.weight_scales": "float16" }],
    ["MXFP4", { "m.gate_up_proj_blocks": "uint8", "m.gate_up_proj_scales": "uint8" }],
    ["Optimum Quanto", { "m.weight._data": "int8", "m.weight._scale": "float32" }],
    ["sparse compressed-tensors", { "m.weight.compressed": "float32", "m.weight.bitmask": "uint8" }],
  ] as const)("%s is recognised by its tensors alone", async (name, dtypes) => {
    const files = new Map(
      Object.entries(dtypes).map(([key, dtype]) => {
        const lazy: LazyTensor = {
          dtype,
          shape: [4, 4],
          sizeBytes: 16,
          read: () => Promise.reject(new Error("not read")),
        };
        return [key, lazy];
      }),
    );
    await expect(openQuantised(files, undefined, "folder")).rejects.toMatchObject({
      code: "quantisation-unsupported",
      message: expect.stringContaining(name),
    });
  });
});

describe("what a folder says", () => {
  it("is found at the root of config.json, one level below, and in the files of older tools", async () => {
    const own = { quant_method: "gptq", bits: 4 };
    const at = async (json: Record<string, unknown>, files: Record<string, string> = {}): Promise<unknown> => {
      const said = await readSaidQuantisation(memoryStorage(files), "f", json as never);
      return [said?.at, said?.method, said?.settings["bits"]];
    };
    expect(await at({ quantization_config: own })).toEqual(["quantization_config of config.json", "gptq", 4]);
    expect(await at({ compression_config: own })).toEqual(["compression_config of config.json", "gptq", 4]);
    expect(await at({ text_config: { quantization_config: own } })).toEqual([
      "text_config.quantization_config of config.json",
      "gptq",
      4,
    ]);
    expect(await at({ quantization: { bits: 4, group_size: 64 } })).toEqual([
      "quantization of config.json",
      undefined,
      4,
    ]);
    expect(await at({}, { "f/quant_config.json": '{"w_bit": 4}' })).toEqual(["quant_config.json", undefined, 4]);
    expect(await at({ quantization_config: { load_in_4bit: true } })).toEqual([
      "quantization_config of config.json",
      "bitsandbytes",
      undefined,
    ]);
    expect(await at({})).toEqual([undefined, undefined, undefined]);
  });

  it("is left out of the config.json of plain weights", () => {
    const json = { a: 1, quantization: { bits: 4 }, text_config: { quantization_config: {}, b: [2] } };
    expect(withoutQuantisation(json)).toEqual({ a: 1, text_config: { b: [2] } });
  });
});

describe("floats of 8 bits", () => {
  it("are written where the official writer puts them", async () => {
    const storage = memoryStorage();
    await writeSafetensors(storage, "f", [...golden.tensors].map(([name, lazy]) => ({ name, tensor: lazy })).reverse());
    expect([...(await openSafetensors(storage, "f")).tensors.keys()]).toEqual([...golden.tensors.keys()]);
  });

  it.each(["float8e4m3fn", "float8e5m2", "float8e8m0"] as const)(
    "%s: every pattern is what PyTorch reads",
    async (dtype) => {
      const patterns = await golden.tensors.get(`float8/${dtype}`)?.read();
      const expected = await golden.tensors.get(`float8/${dtype}/expected`)?.read();
      expect(patterns?.dtype).toBe(dtype);
      expect(patterns && castTensor(patterns, "float32").data).toEqual(expected?.data);
    },
  );
});
