/**
 * A diagnosis of one large matrix with a LoRA update: with the base's decomposition in the cache, and certified without any
 * whole decomposition, beside numpy's two whole decompositions in float32 when a Python with numpy is given.
 *
 *   npm run bench:diagnose -- [--size 4096] [--rank 16] [--rounds 3] [--python <python with numpy>]
 */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import {
  type DiagnosisSettings,
  deviceProducts,
  diagnosisDefaults,
  type Examined,
  examine,
  folderCache,
  type LowRank,
  type MatrixPair,
  writeSvd,
} from "../src/diagnose/index.ts";
import { createRng, type Matrix, matmul } from "../src/linalg/index.ts";
import { nodePlatform, openNodeDevice } from "../src/runtime/node.ts";

const { values } = parseArgs({
  options: {
    size: { type: "string", default: "4096" },
    rank: { type: "string", default: "16" },
    rounds: { type: "string", default: "3" },
    python: { type: "string" },
  },
});
const size = Number(values.size);
const rank = Number(values.rank);
if (Math.log2(size) % 1 !== 0)
  throw new Error("--size must be a power of two: its singular vectors are made by Hadamard transforms");

const folder = await mkdtemp(join(tmpdir(), "scion-bench-diagnose-"));
const device = await openNodeDevice({ worker: false });
const products = deviceProducts(device);
try {
  const { base, svd } = await makeBase();
  const update = makeUpdate();
  const cacheFolder = join(folder, "spectra");
  await writeSvd(nodePlatform.storage, cacheFolder, base, svd);
  const pair: MatrixPair = {
    name: "w",
    module: "w",
    rows: size,
    cols: size,
    part: undefined,
    base: async () => base,
    tuned: async () => added(base, update),
    update: () => update,
  };
  const cache = folderCache(nodePlatform.storage, cacheFolder);
  const look = async (method: DiagnosisSettings["method"]): Promise<{ seconds: number; found: Examined }> => {
    const started = performance.now();
    const found = await examine(pair, { ...diagnosisDefaults, method }, { products, cache });
    return { seconds: (performance.now() - started) / 1000, found };
  };
  const times = { rotated: [] as number[], certified: [] as number[] };
  let rotated: Examined | undefined;
  let certified: Examined | undefined;
  for (let round = 0; round < Number(values.rounds); round++) {
    const [a, b] = [await look("rotated"), await look("certified")];
    times.rotated.push(a.seconds);
    times.certified.push(b.seconds);
    rotated = a.found;
    certified = b.found;
  }
  if (!rotated || !certified) throw new Error("--rounds must be at least 1");
  console.log(`[${size}, ${size}], rank ${rank}, float32, on ${device.provider}`);
  show("base cached (rotated)", times.rotated, rotated);
  show("no whole decomposition (certified)", times.certified, certified);
  agree("certified", rotated.diagnosis.intruders, certified.diagnosis.intruders);
  console.log(
    `  cosines of the two differ by ${apart(rotated, certified).toExponential(1)} at most, where both are known`,
  );
  if (values.python !== undefined) await beside(values.python, base, update, rotated, certified);
} finally {
  await products.close();
  await device.close();
  await rm(folder, { recursive: true, force: true });
}

function show(name: string, seconds: readonly number[], { diagnosis }: Examined): void {
  const sorted = [...seconds].sort((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const spread = `${sorted[0]?.toFixed(2)} to ${sorted.at(-1)?.toFixed(2)}`;
  console.log(
    `${name}: ${median.toFixed(2)} s (${spread}), ${diagnosis.method}; intruders at ${diagnosis.intruders.map((j) => j + 1).join(", ") || "none"}`,
  );
}

function agree(name: string, expected: readonly number[], found: readonly number[]): void {
  if (expected.join() !== found.join())
    throw new Error(`${name} finds intruders at ${found.join()}, not ${expected.join()}`);
}

/** The largest difference of cosines that both methods know. */
function apart(a: Examined, b: Examined): number {
  const known = ({ diagnosis: { maxCos, bound } }: Examined, j: number): boolean => maxCos[j] === bound[j];
  return Math.max(
    0,
    ...a.diagnosis.maxCos.flatMap((value, j) =>
      known(a, j) && known(b, j) ? [Math.abs(value - (b.diagnosis.maxCos[j] ?? 0))] : [],
    ),
  );
}

/** Numpy's two whole decompositions of the same matrices, in float32, and what it finds. */
async function beside(
  python: string,
  base: Matrix<Float32Array>,
  update: LowRank,
  ...ours: readonly Examined[]
): Promise<void> {
  const files = { base: join(folder, "base.f32"), tuned: join(folder, "tuned.f32") };
  await writeFile(files.base, new Uint8Array(base.data.buffer));
  await writeFile(files.tuned, new Uint8Array(added(base, update).data.buffer));
  const script = fileURLToPath(new URL("side_svd.py", import.meta.url));
  const { stdout } = await promisify(execFile)(python, [script, files.base, files.tuned, String(size), "10", "0.5"]);
  const numpy = JSON.parse(stdout) as { seconds: number; cosines: number[]; intruders: number[] };
  console.log(
    `numpy, two whole decompositions: ${numpy.seconds.toFixed(1)} s; intruders at ${numpy.intruders.map((j) => j + 1).join(", ") || "none"}`,
  );
  for (const found of ours) {
    const { method, maxCos, bound, intruders } = found.diagnosis;
    agree(method, numpy.intruders, intruders);
    const differences = maxCos.flatMap((value, j) =>
      value === bound[j] ? [Math.abs(value - (numpy.cosines[j] ?? 0))] : [],
    );
    console.log(`  ${method}: cosines within ${Math.max(...differences).toExponential(1)} of numpy's`);
  }
}

function added(base: Matrix<Float32Array>, { left, right }: LowRank): Matrix<Float32Array> {
  const product = matmul(left, right);
  return { ...base, data: Float32Array.from(base.data, (value, i) => value + (product.data[i] ?? 0)) };
}

/**
 * U·diag(S)·Vt with a decaying spectrum. U and V are products of random signs and Hadamard transforms: dense, and
 * orthonormal to the last bit of float32.
 */
async function makeBase(): Promise<{
  base: Matrix<Float32Array>;
  svd: { U: Matrix<Float32Array>; S: Float32Array; Vt: Matrix<Float32Array> };
}> {
  const S = Float32Array.from({ length: size }, (_, i) => 8 / (1 + i) ** 0.4);
  const [U, Vt] = [orthonormal(1), orthonormal(2)];
  const scaled = { ...U, data: U.data.map((value, i) => value * (S[i % size] ?? 0)) };
  const placed = await products.place(scaled);
  const { data } = await placed.apply(Vt);
  await placed.release();
  return { base: { rows: size, cols: size, data: Float32Array.from(data) }, svd: { U, S, Vt } };
}

function orthonormal(seed: number): Matrix<Float32Array> {
  const rng = createRng(seed, "orthonormal");
  const signs = Array.from({ length: 3 }, () =>
    Float64Array.from({ length: size }, () => (rng.uniform() < 0.5 ? -1 : 1)),
  );
  const data = new Float32Array(size * size);
  const row = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    row.fill(0);
    row[i] = 1;
    for (const sign of signs) {
      for (let j = 0; j < size; j++) row[j] = (row[j] ?? 0) * (sign[j] ?? 1);
      hadamard(row);
    }
    data.set(row, i * size);
  }
  return { rows: size, cols: size, data };
}

/** The orthonormal Walsh–Hadamard transform, in place. */
function hadamard(row: Float64Array): void {
  for (let half = 1; half < row.length; half *= 2) {
    for (let block = 0; block < row.length; block += 2 * half) {
      for (let i = block; i < block + half; i++) {
        const [a, b] = [row[i] ?? 0, row[i + half] ?? 0];
        row[i] = (a + b) * Math.SQRT1_2;
        row[i + half] = (a - b) * Math.SQRT1_2;
      }
    }
  }
}

/** A random update whose strengths run from well above the base's leading values to far below them. */
function makeUpdate(): LowRank {
  const rng = createRng(3, "update");
  const normal = (rows: number, cols: number, scale: (i: number) => number): Matrix<Float64Array> => ({
    rows,
    cols,
    data: Float64Array.from({ length: rows * cols }, (_, i) => (rng.normal() * scale(i)) / Math.sqrt(size)),
  });
  return { left: normal(size, rank, (i) => 12 / (1 + (i % rank))), right: normal(rank, size, () => 1) };
}
