/**
 * Products with packed matrices and whole-model decoding, against ONNX Runtime and llama.cpp: npm run bench:lut.
 *
 * Every contender's result is checked first; then all are timed in turn, round after round, in one process. A product's
 * time holds everything: tables, look-ups, flushes. `--rounds n`, `--threads 1,2`, `--only ladder|products|decode`.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import * as ort from "onnxruntime-node";
import { openPackedDecoder } from "../src/decode/index.ts";
import { openDecoder } from "../src/generate/index.ts";
import { dequantise, matvec, type PackedMatrix, planeScales } from "../src/io/packed/index.ts";
import { createArena, type Views, viewsOf } from "../src/kernels/arena.ts";
import { chooseBuild, type KernelBuild, openKernels } from "../src/kernels/module.ts";
import { type EntryBytes, layOutPacked, threadScratchBytes } from "../src/kernels/packed-product.ts";
import { programBytes, type Step, step, writeProgram } from "../src/kernels/program.ts";
import { blockTables, tile } from "../src/kernels/reference.ts";
import { openTeam, type Team, teamBytes } from "../src/kernels/team.ts";
import { createRng } from "../src/linalg/index.ts";
import { openModel } from "../src/models/index.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { type KQuant, writeRandomGguf } from "./lut/gguf.ts";
import { blockSize, type NBits, type OnnxProduct, onnxBytes, writeProducts } from "./lut/onnx.ts";
import { llama, maps, randomMatrix, weightCount, writeRandomModel } from "./lut/shape.ts";

const flag = (name: string, otherwise: string): string => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : (process.argv[at + 1] ?? otherwise);
};
const rounds = Number(flag("rounds", "60"));
const threadCounts = flag("threads", "1,2").split(",").map(Number);
const only = flag("only", "");
const folder = mkdtempSync(join(tmpdir(), "scion-lut-"));

/** Node 20 has relaxed SIMD behind this; later versions have it. */
setFlagsFromString("--experimental-wasm-relaxed-simd");
const builds: readonly KernelBuild[] = chooseBuild() === "relaxed" ? ["strict", "relaxed"] : ["strict"];

interface Contender {
  readonly name: string;
  readonly bytes: number;
  /** Relative error of its result against float64. */
  readonly error: number;
  readonly once: () => Promise<void> | void;
  readonly close: () => Promise<void> | void;
  readonly times: number[];
}

const median = (times: readonly number[]): number => times.toSorted((a, b) => a - b)[times.length >> 1] ?? 0;
const least = (times: readonly number[]): number => Math.min(...times);
const ms = (value: number): string => value.toFixed(value < 1 ? 3 : 2);

async function race(contenders: readonly Contender[], count: number): Promise<void> {
  for (let round = -5; round < count; round++) {
    for (const contender of contenders) {
      const start = performance.now();
      await contender.once();
      if (round >= 0) contender.times.push(performance.now() - start);
    }
  }
}

function relativeError(given: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [error, size] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    error += ((given[i] ?? 0) - (expected[i] ?? 0)) ** 2;
    size += (expected[i] ?? 0) ** 2;
  }
  return Math.sqrt(error / size);
}

function inputs(count: number): Float32Array {
  const rng = createRng(1, "x");
  return Float32Array.from({ length: count }, () => rng.normal());
}

/** Copies of a matrix that together are far larger than any cache, so that planes come from memory. */
const coldBytes = 192e6;

/** Our product; `cold` goes through copies of the matrix in turn. */
async function ours(
  matrix: PackedMatrix,
  x: Float32Array,
  options: { build: KernelBuild; threads: number; entryBytes: EntryBytes; cold: boolean; rows?: number },
): Promise<Contender & { readonly team: Team; readonly views: Views; readonly planes: readonly [number, number] }> {
  const { build, threads, entryBytes, cold, rows: count = 1 } = options;
  const arena = createArena();
  const control = arena.reserve(teamBytes);
  const copies = cold ? Math.ceil(coldBytes / matrix.planes.length) : 1;
  const start = arena.sizeBytes;
  const placed = Array.from({ length: copies }, () => {
    const one = layOutPacked(arena, matrix, { entryBytes });
    if (one === undefined) throw new Error("no layout");
    return one;
  });
  const planes = [start, Math.floor(arena.sizeBytes / 64) * 64] as const;
  const [first] = placed as [(typeof placed)[number]]; // at least one
  const rows = arena.reserve(4);
  const at = arena.reserve(4 * x.length);
  const y = arena.reserve(count * first.outputBytes);
  const scratch = arena.reserve(threadScratchBytes * threads);
  const tables = arena.reserve(Math.max(...placed.map((one) => one.scratchBytes(count))));
  const programs = placed.map(() => arena.reserve(512));
  const shared = threads > 1;
  const memory = arena.create({ shared });
  const views = viewsOf(memory);
  for (const one of placed) one.load(views, matrix);
  views.words[rows.at / 4] = count;
  views.floats.set(x, at.at / 4);
  const places = { rows: rows.at, tables, scratch: scratch.at };
  let length = 0;
  placed.forEach((one, i) => {
    const steps: Step[] = [
      ...one.tables({ at: at.at, rowBytes: 0, threadBytes: 0 }, places),
      ...one.product({ at: y.at, rowBytes: first.outputBytes }, { bias: 0, adds: false }, places),
    ];
    if (programBytes(steps) > 512) throw new Error("a program is too long");
    writeProgram(views.words, programs[i]?.at ?? 0, steps);
    length = steps.length;
  });
  const team = await openTeam(memory, control, nodePlatform.threads, { threads, build, shared });
  let turn = 0;
  const once = (): void => team.run(programs[turn++ % copies] ?? tables, length);
  once();
  const error = relativeError(views.floats.subarray(y.at / 4, y.at / 4 + matrix.rows), matvec(matrix, x));
  const how = `${entryBytes > 1 ? ", exact" : ""}${cold ? ", from memory" : ""}`;
  const name = `${count > 1 ? `${count} rows: ` : ""}Scion ${matrix.bits} bits, ${build}${how}`;
  const bytes = matrix.planes.length + matrix.scales.byteLength;
  return { name, bytes, error, once, close: () => team.close(), times: [], team, views, planes };
}

/** A product in ONNX Runtime. */
async function theirs(
  product: OnnxProduct,
  x: Float32Array,
  { threads, lut = false }: { threads: number; lut?: boolean },
): Promise<Contender | undefined> {
  const path = join(folder, "product.onnx");
  const rng = createRng(2, "weights");
  const [drawn] = writeProducts(path, [product], () => rng.uniform()) as [NBits];
  const session = await ort.InferenceSession.create(path, {
    intraOpNumThreads: threads,
    ...(lut ? { extra: { mlas: { use_lut_gemm: "1" } } } : {}),
  });
  const feed = { x0: new ort.Tensor("float32", x, [product.rows ?? 1, product.inputs]) };
  const start = performance.now();
  const { y0 } = await session.run(feed);
  await session.run(feed);
  // A fallback that dequantises every time (0.5 s a product) is no baseline.
  const slow = performance.now() - start > 400;
  const name =
    product.bits === 32
      ? "ONNX Runtime float32"
      : `ONNX Runtime MatMulNBits ${product.bits} bits, level ${product.level}${lut ? ", look-up" : ""}`;
  if (slow) {
    console.log(`  (${name}: a fallback that dequantises in every run; left out)`);
    await session.release();
    return undefined;
  }
  const error = onnxError(product, drawn, x, (y0?.data ?? []) as Float32Array);
  const run = async (): Promise<void> => void (await session.run(feed));
  return { name, bytes: onnxBytes(product), error, once: run, close: () => session.release(), times: [] };
}

/** Against float64, on every 97th output. */
function onnxError(product: OnnxProduct, { codes, scales }: NBits, x: Float32Array, y: Float32Array): number {
  const { inputs: columns, outputs, bits } = product;
  const given: number[] = [];
  const expected: number[] = [];
  for (let row = 0; row < outputs; row += 97) {
    let sum = 0;
    for (let k = 0; k < columns; k++) {
      const at = row * columns + k;
      const code = ((codes[(at * bits) >> 3] ?? 0) >> ((at * bits) & 7)) & (2 ** bits - 1);
      const weight =
        bits === 32
          ? (scales[k * outputs + row] ?? 0)
          : (code - 2 ** (bits - 1)) * (scales[Math.floor(at / blockSize)] ?? 0);
      sum += weight * (x[k] ?? 0);
    }
    given.push(y[row] ?? 0);
    expected.push(sum);
  }
  return relativeError(given, expected);
}

/** What memory gives to the threads of a team that read 192 MB together, in GB/s: the best of several. */
function bandwidth(team: Team, views: Views, [from, to]: readonly [number, number]): number {
  const at = 512; // below everything that is laid out
  writeProgram(views.words, at, [step("readAll", [from, to, 1 << 20])]);
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 12; i++) {
    const start = performance.now();
    team.run({ at, bytes: 64 }, 1);
    best = Math.min(best, performance.now() - start);
  }
  return (to - from) / best / 1e6;
}

function printTable(contenders: readonly Contender[]): void {
  console.log("| | median ms | least ms | error | MB |\n| --- | --- | --- | --- | --- |");
  for (const { name, times, error, bytes } of contenders) {
    const share = `${(100 * error).toFixed(3)} %`;
    console.log(`| ${name} | ${ms(median(times))} | ${ms(least(times))} | ${share} | ${(bytes / 1e6).toFixed(2)} |`);
  }
}

async function products(threads: number): Promise<void> {
  for (const outputs of [4096, 11008]) {
    const x = inputs(4096);
    console.log(`\n${outputs}×4096, ${threads} thread${threads > 1 ? "s" : ""}`);
    const contenders: Contender[] = [];
    const memory: { name: string; bytes: number; contender: Contender }[] = [];
    let speed = 0;
    for (const bits of [2, 3, 4]) {
      const matrix = randomMatrix(outputs, 4096, bits, bits);
      for (const build of builds) {
        contenders.push(await ours(matrix, x, { build, threads, entryBytes: 1, cold: false }));
        if (bits === 4) continue;
        const cold = await ours(matrix, x, { build, threads, entryBytes: 1, cold: true });
        if (speed === 0) speed = bandwidth(cold.team, cold.views, cold.planes);
        contenders.push(cold);
        memory.push({ name: cold.name, bytes: matrix.planes.length, contender: cold });
      }
      if (bits === 2)
        contenders.push(
          await ours(matrix, x, { build: builds.at(-1) ?? "strict", threads, entryBytes: 3, cold: false }),
        );
    }
    const peers: readonly [OnnxProduct, boolean][] = [
      [{ inputs: 4096, outputs, bits: 4, level: 4 }, false],
      [{ inputs: 4096, outputs, bits: 4, level: 0 }, false],
      [{ inputs: 4096, outputs, bits: 2, level: 4 }, false],
      [{ inputs: 4096, outputs, bits: 2, level: 4 }, true],
      [{ inputs: 4096, outputs, bits: 2, level: 0 }, false],
      [{ inputs: 4096, outputs, bits: 32 }, false],
    ];
    for (const [product, lut] of peers) {
      const contender = await theirs(product, x, { threads, lut });
      if (contender) contenders.push(contender);
    }
    await race(contenders, rounds);
    printTable(contenders);
    console.log(`memory gives ${speed.toFixed(1)} GB/s to ${threads} thread${threads > 1 ? "s" : ""}`);
    for (const { name, bytes, contender } of memory) {
      const used = bytes / least(contender.times) / 1e6;
      console.log(`  ${name}: ${used.toFixed(1)} GB/s of planes, ${((100 * used) / speed).toFixed(0)} %`);
    }
    for (const contender of contenders) await contender.close();
  }
}

/** Rows of a prompt that go through a product together. */
const prefillRows = 16;

/** The rungs that lead to the kernel, and what a prompt's rows cost: 4096×4096 at 2 bits, one thread. */
async function ladder(): Promise<void> {
  const size = 4096;
  const matrix = randomMatrix(size, size, 2, 2);
  const x = inputs(size);
  const expected = matvec(matrix, x);
  const contenders: Contender[] = [];
  const plain = (): Float32Array => plainProduct(matrix, x);
  const add = (name: string, bytes: number, error: number, once: Contender["once"]): void => {
    contenders.push({ name, bytes, error, once, close: () => undefined, times: [] });
  };
  add("look-ups in plain TypeScript", matrix.planes.length, relativeError(plain(), expected), () => void plain());
  const weights = dequantise(matrix);
  const arena = createArena();
  const rows = arena.reserve(64);
  const weight = arena.reserve(4 * size * size);
  const [from, to] = [arena.reserve(4 * size * prefillRows), arena.reserve(4 * size * prefillRows)];
  const kernelArgs = arena.reserve(256);
  const memory = arena.create({ shared: false });
  const views = viewsOf(memory);
  views.floats.set(weights, weight.at / 4);
  for (let row = 0; row < prefillRows; row++) views.floats.set(x, from.at / 4 + row * size);
  views.words.set(
    [rows.at, 0, from.at, 4 * size, 0, weight.at, 0, size, size, to.at, 4 * size, 0, 0, 0],
    kernelArgs.at / 4,
  );
  const kernels = openKernels(memory, { shared: false });
  const dense = (count: number): void => {
    views.words[rows.at / 4] = count;
    kernels.dense(0, 1, kernelArgs.at);
  };
  dense(1);
  const denseError = relativeError(views.floats.subarray(to.at / 4, to.at / 4 + size), expected);
  add("SIMD products of float32 weights", 4 * size * size, denseError, () => dense(1));
  for (const build of builds) contenders.push(await ours(matrix, x, { build, threads: 1, entryBytes: 1, cold: false }));
  add(`${prefillRows} rows: SIMD products of float32 weights`, 4 * size * size, denseError, () => dense(prefillRows));
  for (const build of builds) {
    contenders.push(await ours(matrix, x, { build, threads: 1, entryBytes: 1, cold: false, rows: prefillRows }));
  }
  const product: OnnxProduct = { inputs: size, outputs: size, bits: 32, rows: prefillRows };
  const many = new Float32Array(size * prefillRows);
  for (let row = 0; row < prefillRows; row++) many.set(x, row * size);
  const peer = await theirs(product, many, { threads: 1 });
  if (peer) contenders.push({ ...peer, name: `${prefillRows} rows: ${peer.name}` });
  await race(contenders, Math.ceil(rounds / 4));
  console.log(`\nThe ladder: ${size}×${size}, 2 bits, 1 thread`);
  printTable(contenders);
  for (const contender of contenders) await contender.close();
}

/** The reference's tables and tiles over a whole matrix. */
function plainProduct(matrix: PackedMatrix, x: Float32Array): Float32Array {
  const { rows, columns, bits } = matrix;
  const { alpha } = planeScales(matrix);
  const y = new Float32Array(rows);
  const tileBytes = 8 * columns;
  for (let plane = 0; plane < bits; plane++) {
    const scaled = x.map((value, k) => value * (alpha[plane * columns + k] ?? 0));
    const tables = new Uint8Array(4 * columns);
    const scales = new Float32Array(columns / 128);
    for (let block = 0; block < scales.length; block++) {
      const made = blockTables(scaled.subarray(128 * block, 128 * (block + 1)), 1);
      tables.set(made.bytes[0] ?? [], 512 * block);
      scales[block] = made.scales[0] ?? 0;
    }
    for (let at = 0; at < rows / 64; at++) {
      const first = (plane * (rows / 64) + at) * tileBytes;
      tile(matrix.planes.subarray(first, first + tileBytes), tables, scales, y.subarray(64 * at, 64 * at + 64));
    }
  }
  return y;
}

interface Decoding {
  readonly name: string;
  readonly fileBytes: number;
  /** Milliseconds of each of so many tokens. */
  readonly tokens: (count: number) => Promise<readonly number[]>;
  readonly close: () => Promise<void>;
  readonly times: number[];
}

async function decode(threads: number): Promise<void> {
  console.log(`\nDecoding a Llama of ${(weightCount / 1e6).toFixed(0)} M weights in its layers, ${threads} thread(s)`);
  const contenders: Decoding[] = [];
  for (const bits of [2, 3]) {
    const path = join(folder, `packed${bits}`);
    const fileBytes = await writeRandomModel(nodeStorage, path, bits);
    const model = await openModel(nodeStorage, path);
    const recipe = model.recipe();
    if (recipe === undefined) throw new Error("no recipe");
    for (const build of builds) {
      const decoder = await openPackedDecoder(model, recipe, nodePlatform.threads, { threads, build, lookups: "fast" });
      if (threads === 1 && bits === 2 && build === "strict") await check(decoder, path);
      const tokens = async (count: number): Promise<readonly number[]> => {
        let at = await decoder.start([[1, 5, 9]]);
        const times: number[] = [];
        for (let i = 0; i < count; i++) {
          const start = performance.now();
          at = await at.next([1 + (i % 500)]);
          times.push(performance.now() - start);
        }
        await at.end();
        return times;
      };
      const name = `Scion ${bits} bits, ${build}`;
      contenders.push({ name, fileBytes, tokens, close: () => decoder.close(), times: [] });
    }
    if (threads === threadCounts[0]) reportMemory(bits, path, fileBytes);
  }
  for (const type of ["Q2_K", "Q3_K"] as const) {
    const peer = await llamaCpp(type, threads);
    if (peer) contenders.push(peer);
  }
  for (const bits of [4, 2] as const) contenders.push(await onnxLayers(bits, threads));
  for (let round = -1; round < Math.ceil(rounds / 10); round++) {
    for (const { tokens, times } of contenders) {
      const taken = await tokens(32);
      if (round >= 0) times.push(...taken.slice(2));
    }
  }
  console.log("| | median ms a token | least | tokens/s | file MB |\n| --- | --- | --- | --- | --- |");
  for (const { name, times, fileBytes } of contenders) {
    const [middle, best] = [median(times), least(times)];
    console.log(
      `| ${name} | ${ms(middle)} | ${ms(best)} | ${(1000 / middle).toFixed(0)} | ${(fileBytes / 1e6).toFixed(1)} |`,
    );
  }
  for (const { close } of contenders) await close();
}

/** In a process of its own: kernel memory with a cache of 36 tokens, and how much the process grew. */
function reportMemory(bits: number, path: string, fileBytes: number): void {
  const script = fileURLToPath(new URL("./lut/memory.ts", import.meta.url));
  const answer = execFileSync(process.execPath, ["--expose-gc", "--import", "tsx", script, path], { encoding: "utf8" });
  const { kernels, loaded, decoding } = JSON.parse(answer) as Record<"kernels" | "loaded" | "decoding", number>;
  const share = (bytes: number): string => `${(bytes / fileBytes).toFixed(3)}×`;
  const half = fileBytes / (2 * (weightCount + 2 * llama.vocab_size * llama.hidden_size));
  console.log(
    `${bits} bits: the file is ${(100 * half).toFixed(1)} % of float16; of the file, kernel memory is ${share(kernels)}, the process grew by ${share(loaded)} while loading and holds ${share(decoding)} while decoding`,
  );
}

/** The packed model must say what its dequantised weights say, before anything is timed. */
async function check(decoder: Awaited<ReturnType<typeof openPackedDecoder>>, path: string): Promise<void> {
  const device = await openNodeDevice({ worker: false, threads: 2 });
  const reference = await openDecoder(device, await openModel(nodeStorage, path));
  const [expected, given] = [await reference.start([[1, 5, 9]]), await decoder.start([[1, 5, 9]])];
  const error = relativeError(given.logits[0] ?? [], expected.logits[0] ?? []);
  await given.end();
  await reference.close();
  await device.close();
  console.log(`logits differ from those of the dequantised weights on ONNX Runtime by ${(100 * error).toFixed(2)} %`);
  if (!(error < 0.1)) throw new Error("the packed model does not say what its weights say");
}

async function llamaCpp(type: KQuant, threads: number): Promise<Decoding | undefined> {
  const path = join(folder, `${type}.gguf`);
  const fileBytes = writeRandomGguf(path, type);
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  const native = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.error,
  }).catch(() => undefined);
  if (native === undefined) {
    console.log("  (llama.cpp has no binary here)");
    return undefined;
  }
  const model = await native.loadModel({ modelPath: path, gpuLayers: 0 });
  const context = await model.createContext({ contextSize: 256, threads });
  const sequence = context.getSequence();
  const tokens = async (count: number): Promise<readonly number[]> => {
    await sequence.clearHistory();
    const times: number[] = [];
    let start = performance.now();
    const prompt = [1, 5, 9] as unknown as Parameters<typeof sequence.evaluate>[0]; // numbers of tokens
    for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      times.push(performance.now() - start);
      if (times.length > count) break;
      start = performance.now();
    }
    return times.slice(1);
  };
  const close = async (): Promise<void> => {
    await context.dispose();
    await model.dispose();
    await native.dispose();
  };
  return { name: `llama.cpp ${native.llamaCppRelease.release} ${type}`, fileBytes, tokens, close, times: [] };
}

/** Only the products of a token, all in one run: no attention, no norms, no output layer. */
async function onnxLayers(bits: 2 | 4, threads: number): Promise<Decoding> {
  const path = join(folder, `layers${bits}.onnx`);
  const shapes = Array.from({ length: llama.num_hidden_layers }, () => maps).flat();
  const list = shapes.map(([, outputs, columns]): OnnxProduct => ({ inputs: columns, outputs, bits, level: 4 }));
  const noise = createRng(3, "layers").uniform();
  let state = noise;
  writeProducts(path, list, () => {
    state = (state * 16807.123 + 0.1234) % 1;
    return state;
  });
  const session = await ort.InferenceSession.create(path, { intraOpNumThreads: threads });
  const feeds = Object.fromEntries(
    list.map(({ inputs: columns }, i) => [`x${i}`, new ort.Tensor("float32", inputs(columns), [1, columns])]),
  );
  return {
    name: `ONNX Runtime MatMulNBits ${bits} bits, level 4, products alone`,
    fileBytes: list.reduce((sum, product) => sum + onnxBytes(product), 0),
    tokens: async (count) => {
      const times: number[] = [];
      for (let i = 0; i < count; i++) {
        const start = performance.now();
        await session.run(feeds);
        times.push(performance.now() - start);
      }
      return times;
    },
    close: () => session.release(),
    times: [],
  };
}

console.log(
  `${cpus()[0]?.model ?? "unknown"}, ${availableParallelism()} cores; Node ${process.version}, V8 ${process.versions.v8}, onnxruntime-node ${ort.env.versions.node}`,
);
try {
  if (only === "" || only === "ladder") await ladder();
  for (const threads of threadCounts) {
    if (only === "ladder") break;
    if (only !== "decode") await products(threads);
    if (only !== "products") await decode(threads);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
