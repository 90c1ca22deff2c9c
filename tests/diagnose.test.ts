import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type DiagnosisSettings,
  deviceProducts,
  diagnosisDefaults,
  examine,
  journalLine,
  type MatrixDiagnosis,
  type MatrixPair,
  memoryCache,
  sum,
} from "../src/diagnose/index.ts";
import type { LazyTensor, Tensor } from "../src/graph/index.ts";
import {
  type Adapter,
  type Device,
  type DiagnoseOptions,
  type DiagnosisReport,
  diagnose,
  exportModel,
  type LoadedModel,
  loadAdapter,
  loadModel,
  mend,
  type Platform,
  TuneError,
  writeMended,
} from "../src/index.ts";
import { createRng, type Matrix, matmul, qr } from "../src/linalg/index.ts";
import { attach, chooseMethod } from "../src/methods/index.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { golden } from "./helpers/golden.ts";
import { randomModel, tinyLlama } from "./helpers/tiny-model.ts";

let device: Device;
let folder: string;
const platform: Platform = nodePlatform;
beforeAll(async () => {
  device = await openNodeDevice({ worker: false, threads: 1 });
  folder = await mkdtemp(join(tmpdir(), "scion-diagnose-"));
});
afterAll(async () => {
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const load = (path: string): Promise<LoadedModel> => loadModel(path, { platform });
const look = (base: LoadedModel, options: DiagnoseOptions): Promise<DiagnosisReport> =>
  diagnose(base, { device, ...options });

/** A model in memory as the commands have it. */
const loaded = (pretrained: PretrainedModel, source = "memory"): LoadedModel => ({
  pretrained,
  platform,
  source,
  folder: source,
  tokenizer: async () => {
    throw new Error("no tokenizer");
  },
});

/** An adapter of the method with random tensors, strong enough to leave intruders. */
function strongAdapter(
  model: PretrainedModel,
  name: string,
  options: Readonly<Record<string, number | boolean>> = {},
): Adapter {
  const choice = chooseMethod(name, options);
  const { outputModule } = model.architecture;
  const { trainables } = attach(model.predict().outputs, {
    choice,
    targets: "all-linear",
    outputModule,
    training: false,
  });
  const parameters = new Map<string, Tensor>(
    trainables.map(({ value, key }): [string, Tensor] => {
      const rng = createRng(2, value.name);
      const shape = value.shape.map(Number);
      const size = shape.reduce((product, dim) => product * dim, 1);
      if (value.dtype === "int64") {
        const data = BigInt64Array.from({ length: size }, (_, i) => BigInt(3 * i)); // columns of a weight
        return [value.name, { dtype: value.dtype, shape, data } as Tensor];
      }
      const scale = key === "magnitude" ? 0 : key === "B" ? 1 : 0.4;
      const data = Float32Array.from({ length: size }, () => (key === "magnitude" ? 1 : 0) + scale * rng.normal());
      return [value.name, { dtype: "float32" as const, shape, data }];
    }),
  );
  return { choice, targets: "all-linear", parameters };
}

/** Names, counts and cosines alone. */
const gist = ({ matrices }: DiagnosisReport): unknown =>
  matrices.map(({ name, intruders, maxCos }) => [
    name,
    intruders,
    maxCos.map((value) => Math.round(value * 1e4) / 1e4),
  ]);

describe("a diagnosis of an adapter is that of the merged model", () => {
  it.each([
    ["peft-llama", "llama-tiny"],
    ["peft-rslora", "llama-tiny"],
    ["peft-dora", "llama-tiny"],
    ["peft-gpt2", "gpt2-tiny"],
    ["peft-adalora", "llama-tiny"],
    ["peft-pissa", "llama-tiny"],
    ["peft-olora", "llama-tiny"],
  ])("%s", async (name, of) => {
    const base = await load(golden(of));
    const adapter = await loadAdapter(base, golden(name));
    const apart = await look(base, { adapter, k: 4, eps: 0.9 });
    const merged = join(folder, name);
    await exportModel(base, "safetensors", merged, { adapter, device });
    const whole = await look(base, { tuned: await load(merged), k: 4, eps: 0.9 });
    const adapted = new Map(apart.matrices.map((matrix) => [matrix.name, matrix]));
    expect(adapted.size).toBeGreaterThan(0);
    for (const matrix of whole.matrices) {
      const other = adapted.get(matrix.name);
      if (other === undefined) {
        // What the adapter does not touch is as it was.
        expect([matrix.intruders, Math.min(...matrix.maxCos) > 1 - 1e-6, matrix.update.spectral]).toEqual([
          [],
          true,
          0,
        ]);
        continue;
      }
      expect(other.intruders).toEqual(matrix.intruders);
      for (const [j, value] of matrix.maxCos.entries()) expect(other.maxCos[j]).toBeCloseTo(value, 4);
      for (const [j, value] of matrix.sigma.entries()) expect(other.sigma[j]).toBeCloseTo(value, 5);
      expect(other.update.spectral).toBeCloseTo(matrix.update.spectral, 4);
    }
  });

  it("of columns trained in place (PaCA)", async () => {
    const base = await load(golden("llama-tiny"));
    const adapter = strongAdapter(base.pretrained, "paca", { rank: 2 });
    const options = { k: 4, eps: 0.9 };
    const apart = await look(base, { adapter, ...options });
    const merged = join(folder, "paca");
    await exportModel(base, "safetensors", merged, { adapter, device });
    const whole = await look(base, { tuned: await load(merged), ...options });
    const touched = new Set(apart.matrices.map(({ name }) => name));
    expect(apart.total).toBeGreaterThan(0);
    expect(apart.matrices.every(({ update }) => (update.rank ?? 9) <= 2)).toBe(true);
    expect(gist({ ...whole, matrices: whole.matrices.filter(({ name }) => touched.has(name)) })).toEqual(gist(apart));
  });

  it("in shards, in 16 bits and from either side", async () => {
    const base = await load(golden("llama-tiny"));
    const adapter = await loadAdapter(base, golden("peft-llama"));
    const shards = join(folder, "shards");
    await exportModel(base, "safetensors", shards, { adapter, device, maxShardBytes: 20_000 });
    expect((await readdir(shards)).filter((file) => file.startsWith("model-")).length).toBeGreaterThan(2);
    const options = { k: 4, eps: 0.9 };
    for (const side of ["left", "right"] as const) {
      const apart = await look(base, { adapter, side, ...options });
      const whole = await look(base, { tuned: await load(shards), side, ...options });
      const touched = new Set(apart.matrices.map(({ name }) => name));
      expect(gist({ ...whole, matrices: whole.matrices.filter(({ name }) => touched.has(name)) })).toEqual(gist(apart));
      expect(whole.baseHash).not.toBe("");
    }
    // A base in bfloat16 is widened before anything is added to it.
    const half = await randomModel(tinyLlama, 3, "bfloat16");
    const wide = await randomModel(tinyLlama, 3, "bfloat16");
    const strong = strongAdapter(half, "lora", { rank: 2, alpha: 4 });
    const [a, b] = [await look(loaded(half), { adapter: strong }), await look(loaded(wide), { adapter: strong })];
    expect(gist(a)).toEqual(gist(b));
    expect(a.total).toBeGreaterThan(0);
    const float = await look(loaded(half), { tuned: loaded(await randomModel(tinyLlama, 3)) });
    expect(float.warnings.map(({ code }) => code)).toContain("precision-differs");
  });
});

it("certifies on a device in float32 what whole decompositions find", async () => {
  const size = 288; // large enough for the device
  const rng = createRng(4, "certified");
  const gaussian = (rows: number, cols: number): Matrix<Float64Array> => ({
    rows,
    cols,
    data: Float64Array.from({ length: rows * cols }, () => rng.normal() / Math.sqrt(size)),
  });
  const [left, right] = [qr(gaussian(size, size)).Q, qr(gaussian(size, size)).Q];
  const scaled = { ...left, data: left.data.map((value, i) => (8 * value) / (1 + (i % size)) ** 0.4) };
  const base = { rows: size, cols: size, data: Float32Array.from(matmul(scaled, right, { transB: true }).data) };
  const update = { left: gaussian(size, 3), right: gaussian(3, size) };
  update.left.data.forEach((value, i) => {
    update.left.data[i] = value * (i % 3 === 0 ? 12 : 0.5);
  });
  const pair: MatrixPair = {
    name: "w",
    module: "w",
    rows: size,
    cols: size,
    part: undefined,
    base: async () => base,
    tuned: async () => sum(matmul(update.left, update.right), base),
    update: () => update,
  };
  const products = deviceProducts(device);
  const tools = { products, cache: memoryCache() };
  const found = async (method: DiagnosisSettings["method"]) =>
    (await examine(pair, { ...diagnosisDefaults, method }, tools)).diagnosis;
  const [exact, certified, rotated] = [await found("exact"), await found("certified"), await found("rotated")];
  await products.close();
  expect([certified.method, rotated.method]).toEqual(["certified", "rotated"]);
  expect(exact.intruders).toEqual([0]);
  for (const other of [certified, rotated]) {
    expect(other.intruders).toEqual(exact.intruders);
    for (const [j, value] of exact.maxCos.entries()) {
      expect(other.bound[j] ?? 0).toBeGreaterThan(value - 1e-5);
      if (other.bound[j] === other.maxCos[j]) expect(other.maxCos[j]).toBeCloseTo(value, 5);
    }
  }
});

describe("what a diagnosis takes", () => {
  /** A device that counts what is kept on it. */
  function watched(): {
    readonly device: Device;
    readonly kept: Set<string>;
    readonly uploads: string[];
    runs: number;
  } {
    const seen = { kept: new Set<string>(), uploads: [] as string[], runs: 0, most: 0 };
    const watching = new Proxy(device, {
      get: (target, key): unknown => {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== "function") return value;
        return (...args: unknown[]): unknown => {
          if (key === "upload") {
            seen.uploads.push(String(args[0]));
            seen.kept.add(String(args[0]));
          }
          if (key === "discard") for (const name of args[0] as string[]) seen.kept.delete(name);
          if (key === "run") {
            seen.runs += 1;
            const { writes = {} } = args[0] as { writes?: Record<string, string> };
            for (const name of Object.values(writes)) seen.kept.add(name);
          }
          return value.apply(target, args);
        };
      },
    });
    return Object.assign(seen, { device: watching });
  }

  it.each([
    [300, 300],
    [600, 260],
    [260, 600],
  ])(
    "of [%d, %d] without decompositions: the matrix goes to the device once, and nothing stays there",
    async (rows, cols) => {
      const seen = watched();
      const products = deviceProducts(seen.device);
      const rng = createRng(4, "takes");
      const random = (n: number, m: number, scale: number): Float64Array =>
        Float64Array.from({ length: n * m }, () => scale * rng.normal());
      const base = { rows, cols, data: Float32Array.from(random(rows, cols, 0.05)) }; // flat: the hardest for these methods
      const update = {
        left: { rows, cols: 2, data: random(rows, 2, 1) },
        right: { rows: 2, cols, data: random(2, cols, 0.01) },
      };
      let reads = 0;
      const pair: MatrixPair = {
        ...{ name: "w", module: "w", rows, cols, part: undefined },
        base: async () => {
          reads += 1;
          return base;
        },
        tuned: async () => sum(matmul(update.left, update.right), base),
        update: () => update,
      };
      const settings: DiagnosisSettings = { ...diagnosisDefaults, method: "certified" };
      const { diagnosis } = await examine(pair, settings, { products, cache: memoryCache() });
      const exact = await examine(pair, { ...settings, method: "exact" }, { products, cache: memoryCache() });
      expect(diagnosis.method).toBe("certified");
      expect(diagnosis.intruders).toEqual(exact.diagnosis.intruders);
      for (const [j, value] of exact.diagnosis.sigma.entries()) {
        expect((diagnosis.sigma[j] ?? 0) / value).toBeCloseTo(1, 5);
        expect(diagnosis.bound[j] ?? 0).toBeGreaterThan((exact.diagnosis.maxCos[j] ?? 0) - 1e-3);
      }
      expect(reads).toBe(2); // one for each examination
      expect(seen.uploads.length).toBe(1);
      expect([...seen.kept]).toEqual([]);
      expect(seen.runs).toBeLessThan(250);
      await products.close();
    },
  );

  it.each(["llama-tiny", "gpt2-tiny", "families/phi3"])(
    "%s: every weight is read once, and the time that is left is said",
    async (name) => {
      const model = (await load(golden(name))).pretrained;
      const counting = (): { readonly model: LoadedModel; readonly reads: Map<string, number> } => {
        const reads = new Map<string, number>();
        const files = [...model.weights].map(([key, { source }]): [string, LazyTensor] => [
          key,
          {
            ...source,
            read: () => {
              reads.set(key, (reads.get(key) ?? 0) + 1);
              return source.read();
            },
          },
        ]);
        return { model: loaded(model.withTensors(new Map(files), model.json)), reads };
      };
      const [base, tuned] = [counting(), counting()];
      const left: (number | undefined)[] = [];
      const options: DiagnoseOptions = {
        k: 4,
        journal: join(folder, `${name.replace("/", "-")}.jsonl`),
        cacheFolder: join(folder, "passes"),
        onProgress: ({ remainingMs }) => left.push(remainingMs),
      };
      const adapter = strongAdapter(base.model.pretrained, "lora", { rank: 2, alpha: 4 });
      await look(base.model, { ...options, adapter });
      expect([...base.reads.values()].every((count) => count === 1)).toBe(true);
      expect(base.reads.size).toBeGreaterThan(3);
      expect(left[0]).toBeUndefined();
      expect(left.slice(1).every((ms) => ms !== undefined && ms >= 0)).toBe(true);
      expect(left.at(-1)).toBe(0);
      base.reads.clear();
      await look(base.model, { ...options, tuned: tuned.model });
      for (const { reads } of [base, tuned]) {
        expect(reads.size).toBeGreaterThan(3);
        expect([...reads].filter(([, count]) => count !== 1)).toEqual([]);
      }
      base.reads.clear();
      await (await mend(base.model, { adapter, k: 4, device })).close();
      expect([...base.reads].filter(([, count]) => count !== 1)).toEqual([]);
    },
  );
});

describe("fused projections", () => {
  it.each([
    ["families/phi3", /qkv_proj\.(q|k|v)_proj$|gate_up_proj\.(gate|up)_proj$/, 5],
    ["gpt2-tiny", /c_attn\.(query|key|value)$/, 3],
    ["families/gpt_neox", /query_key_value\.(query|key|value)$/, 3],
  ])("of %s are taken apart, unless they are wanted whole", async (name, parts, count) => {
    const base = await load(golden(name));
    const adapter = strongAdapter(base.pretrained, "lora", { rank: 2, alpha: 4 });
    const apart = await look(base, { adapter, k: 4 });
    const whole = await look(base, { adapter, k: 4, fused: true });
    const layers = base.pretrained.sizes.layers;
    expect(apart.matrices.filter((matrix) => parts.test(matrix.name)).length).toBe(count * layers);
    expect(whole.matrices.some((matrix) => parts.test(matrix.name))).toBe(false);
    const rows = (report: DiagnosisReport): number => report.matrices.reduce((sum, { shape }) => sum + shape[0], 0);
    expect(rows(apart)).toBe(rows(whole));
    // Parts put together are the whole weight: mending nothing at all gives the tuned model back.
    const mended = await mend(base, { adapter, k: 4, lambda: 0.5, mode: "all", device });
    expect(mended.scaled).toBe(apart.total);
    const { adapter: written, error } = await mended.adapter();
    expect(error).toBe(0);
    const [direct, again] = [
      await look(base, { tuned: mended.model, k: 4 }),
      await look(base, { adapter: written, k: 4 }),
    ];
    expect(gist(again)).toEqual(gist(direct));
    await mended.close();
  });

  it("of a head's queries, keys and values side by side are the rows that the model splits", async () => {
    const base = await load(golden("families/gpt_neox"));
    const { heads, headDim } = base.pretrained.sizes;
    const parts = base.pretrained.fusedParts("gpt_neox.layers.0.attention.query_key_value");
    const owner = Array.from({ length: 3 * heads * headDim }, (_, row) =>
      parts.findIndex(({ rows }) => rows.some(([from, to]) => row >= from && row < to)),
    );
    expect(owner).toEqual(Array.from({ length: 3 * heads * headDim }, (_, row) => Math.floor(row / headDim) % 3));
  });
});

describe("mending", () => {
  it("leaves a model and an adapter that are the same, and what lambda 1 leaves is what was", async () => {
    const base = loaded(await randomModel());
    const adapter = strongAdapter(base.pretrained, "lora", { rank: 2, alpha: 4 });
    const mended = await mend(base, { adapter, lambda: 0.75, mode: "all", device });
    expect(mended.scaled).toBeGreaterThan(3);
    const { adapter: written } = await mended.adapter();
    const same = await mended.adapter("same");
    expect(same.error).toBeGreaterThan(0);
    const name = "model.layers.0.mlp.up_proj.weight";
    const values = async (model: LoadedModel): Promise<ArrayLike<number>> =>
      (await model.pretrained.weights.get(name)?.source.read())?.data as Float32Array;
    const direct = await values(mended.model);
    const out = join(folder, "applied");
    await exportModel(base, "safetensors", out, { adapter: written, device });
    const applied = await values(await load(out));
    for (let i = 0; i < direct.length; i += 7) expect(applied[i]).toBeCloseTo(direct[i] ?? 0, 5);
    await writeMended(mended.model, join(folder, "mended"), "memory");
    expect(await values(await load(join(folder, "mended")))).toEqual(direct);
    const kept = await mend(base, { adapter, lambda: 1, mode: "all", device });
    expect(kept.scaled).toBe(0);
    expect(await values(kept.model)).toEqual(await values(kept.unmended));
    await kept.close();
    await mended.close();
  });

  it("writes an adapter for any method whose update has few directions, and says where none can hold it", async () => {
    const base = await load(golden("llama-tiny"));
    for (const name of ["peft-adalora", "peft-pissa"]) {
      const adapter = await loadAdapter(base, golden(name));
      const mended = await mend(base, { adapter, k: 4, eps: 0.95, lambda: 0.5, device });
      const { adapter: written } = await mended.adapter();
      expect(written.choice.method.name).toBe("lora");
      const options = { k: 4, eps: 0.95 };
      const [direct, again] = [
        await look(base, { tuned: mended.model, ...options }),
        await look(base, { adapter: written, ...options }),
      ];
      const touched = new Set(again.matrices.map((matrix) => matrix.name));
      expect(gist({ ...direct, matrices: direct.matrices.filter((matrix) => touched.has(matrix.name)) })).toEqual(
        gist(again),
      );
      await mended.close();
    }
    const dora = await mend(base, { adapter: await loadAdapter(base, golden("peft-dora")), device });
    await expect(dora.adapter()).rejects.toMatchObject({ code: "no-adapter-form" });
    await dora.close();
  });
});

describe("keeping and going on", () => {
  it("keeps decompositions of the base by content, and computes damaged ones anew", async () => {
    const base = await load(golden("llama-tiny"));
    const adapter = await loadAdapter(base, golden("peft-llama"));
    const cacheFolder = join(folder, "cache");
    const first = await look(base, { adapter, cacheFolder });
    const files = await readdir(cacheFolder);
    expect(files.length).toBe(first.matrices.length);
    await writeFile(join(cacheFolder, files[0] ?? ""), "cut short");
    const again = await look(base, { adapter, cacheFolder });
    expect(gist(again)).toEqual(gist(first));
    expect((await readdir(cacheFolder)).length).toBe(files.length);
  });

  it("goes on where it was stopped, and not from another question's answers", async () => {
    const base = await load(golden("llama-tiny"));
    const adapter = await loadAdapter(base, golden("peft-llama"));
    const journal = join(folder, "progress.jsonl");
    const stop = new AbortController();
    const interrupted = look(base, {
      adapter,
      journal,
      signal: stop.signal,
      onProgress: ({ done }) => {
        if (done === 2) stop.abort();
      },
    });
    await expect(interrupted).rejects.toMatchObject({ code: "interrupted" });
    const whole = await look(base, { adapter });
    const kept = (await readFile(journal, "utf8")).trim().split("\n");
    expect(kept.length).toBe(2);
    // What the journal says is believed where its checksum is right: here, an intruder of the first matrix in the ninth place.
    const entry = JSON.parse(kept[0] ?? "") as { key: string; diagnosis: MatrixDiagnosis }; // our own file
    const marked = journalLine(entry.key, { ...entry.diagnosis, intruders: [8] });
    await writeFile(journal, `${kept[0]?.replace(/"intruders":\[[^\]]*\]/, '"intruders":[8]')}\n${kept[1]}\n`);
    expect((await look(base, { adapter, journal })).matrices[0]?.intruders).not.toEqual([8]);
    await writeFile(journal, `${marked}\n${kept[1]}\n{"key": "cut sho`);
    const other = await look(base, { adapter, journal, eps: 0.6 });
    expect(other.matrices[0]?.intruders).not.toEqual([8]);
    await writeFile(journal, `${marked}\n${kept[1]}\n{"key": "cut sho`);
    const resumed = await look(base, { adapter, journal });
    expect(resumed.matrices[0]?.intruders).toEqual([8]);
    expect(gist({ ...resumed, matrices: resumed.matrices.slice(1) })).toEqual(
      gist({ ...whole, matrices: whole.matrices.slice(1) }),
    );
    expect((await readdir(folder)).includes("progress.jsonl")).toBe(false);
  });
});

describe("what cannot be compared", () => {
  const code = async (work: Promise<unknown>): Promise<readonly [string, string]> => {
    const error = await work.then(() => undefined).catch((caught: unknown) => caught);
    return error instanceof TuneError ? [error.code, error.what] : ["none", String(error)];
  };

  it("lists every layer that differs", async () => {
    const base = loaded(await randomModel());
    const deeper = loaded(await randomModel({ ...tinyLlama, num_hidden_layers: 3, intermediate_size: 40 }));
    const [name, what] = await code(look(base, { tuned: deeper }));
    expect(name).toBe("models-differ");
    expect(what).toContain("model.layers.1.mlp.up_proj is [48, 32] in the base and [40, 32] in the tuned model");
    expect(what.match(/is in the tuned model alone/g)?.length).toBe(7);
    expect(what.match(/\n/g)?.length).toBe(7 + 6);
  });

  it("never takes NaN or infinity for no intruders", async () => {
    const broken = async (value: number): Promise<LoadedModel> => {
      const model = await randomModel();
      const files = new Map<string, LazyTensor>([...model.weights].map(([name, { source }]) => [name, source]));
      const name = "model.layers.1.self_attn.v_proj.weight";
      const source = files.get(name) as LazyTensor;
      const read = async () => {
        const tensor = await source.read();
        (tensor.data as Float32Array)[5] = value;
        return tensor;
      };
      files.set(name, { ...source, read });
      return loaded(model.withTensors(files, model.json));
    };
    const base = loaded(await randomModel());
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const [name, what] = await code(look(base, { tuned: await broken(value) }));
      expect([name, what]).toEqual(["not-finite-weight", expect.stringContaining("model.layers.1.self_attn.v_proj")]);
      expect((await code(look(await broken(value), { tuned: base })))[0]).toBe("not-finite-weight");
    }
    const adapter = strongAdapter(base.pretrained, "lora", { rank: 2, alpha: 4 });
    const [[key, tensor] = []] = adapter.parameters;
    if (key && tensor) (tensor.data as Float32Array)[0] = Number.NaN;
    expect((await code(look(base, { adapter })))[0]).toBe("not-finite-weight");
  });

  it("explains options out of range with the chance level, and warns where eps is below it", async () => {
    const base = loaded(await randomModel());
    const adapter = strongAdapter(base.pretrained, "lora", { rank: 2, alpha: 4 });
    for (const [options, words] of [
      [{ eps: 0 }, /above 0/],
      [{ eps: 999 }, /no cosine is above 1/],
      [{ eps: Number.NaN }, /NaN/],
      [{ k: 0 }, /whole number from 1/],
      [{ k: 2.5 }, /whole number from 1/],
      [{ side: "up" as "left" }, /left or right/],
      [{}, undefined],
    ] as const) {
      const [name, what] = await code(look(base, { adapter, ...options }));
      if (words) expect([name, what]).toEqual(["bad-option", expect.stringMatching(words)]);
      else expect(name).toBe("none");
    }
    expect((await code(look(base, {})))[0]).toBe("bad-option");
    expect((await code(look(base, { adapter, tuned: base })))[0]).toBe("bad-option");
    const { warnings } = await look(base, { adapter, eps: 0.3, k: 100 });
    expect(warnings).toContainEqual(expect.objectContaining({ code: "chance-level" }));
  });

  it("counts nothing where nothing changed", async () => {
    const base = loaded(await randomModel());
    const same = await look(base, { tuned: loaded(await randomModel()) });
    expect([same.total, same.fractionWithIntruder]).toEqual([0, 0]);
    for (const { maxCos, update } of same.matrices) {
      expect(Math.min(...maxCos)).toBeGreaterThan(1 - 1e-6);
      expect([update.spectral, update.effectiveRank]).toEqual([0, 0]);
    }
  });
});
