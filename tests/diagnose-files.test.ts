import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DType, type Tensor, tensor } from "../src/graph/index.ts";
import { diagnoseFiles } from "../src/index.ts";
import { castTensor } from "../src/io/convert.ts";
import { writeSafetensors } from "../src/io/safetensors.ts";
import { createRng, type Matrix, matmul, qr } from "../src/linalg/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { scion } from "./helpers/cli.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-diagnose-files-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const [rows, cols, rank] = [64, 80, 20];

/** [n, count] with orthonormal columns. */
function orthonormal(n: number, count: number, name: string): Matrix<Float64Array> {
  const rng = createRng(1, name);
  return qr({ rows: n, cols: count, data: Float64Array.from({ length: n * count }, () => rng.normal()) }).Q;
}

const [U, V] = [orthonormal(rows, rank + 1, "u"), orthonormal(cols, rank + 1, "v")];

/** Σ sⱼ·uⱼ·vⱼᵀ: the last direction of the two bases is none of the first twenty's. */
function madeOf(values: readonly number[]): Tensor<"float32"> {
  const scaled = { ...U, data: U.data.map((u, i) => u * (values[i % U.cols] ?? 0)) };
  return { ...tensor("float32", [rows, cols], 0), data: Float32Array.from(matmul(scaled, V, { transB: true }).data) };
}

const base = Array.from({ length: rank }, (_, j) => 10 * 0.8 ** j);

async function write(name: string, tensors: Readonly<Record<string, Tensor>>): Promise<string> {
  const path = join(folder, name);
  const entries = Object.entries(tensors).map(([key, value]) => ({ name: key, tensor: value }));
  await writeSafetensors(nodeStorage, path, entries);
  return path;
}

const look = (before: string, after: string): ReturnType<typeof diagnoseFiles> =>
  diagnoseFiles(nodePlatform, { base: before, tuned: after }, { k: 6, eps: 0.7, deviceOptions: { threads: 1 } });

describe("two files of weights", () => {
  it("are compared matrix by matrix; what is no matrix is left alone", async () => {
    const bias = tensor("float32", [rows], 1);
    const before = await write("before.safetensors", { a: madeOf(base), b: madeOf(base), bias });
    const after = await write("after.safetensors", { a: madeOf([...base, 7]), b: madeOf(base), bias });
    const report = await look(before, after);
    expect(report).toMatchObject({ base: before, tuned: after, total: 1, k: 6 });
    expect(report.matrices.map(({ name, intruders }) => [name, intruders])).toEqual([
      ["a", [2]],
      ["b", []],
    ]);
    const [a] = report.matrices;
    expect(a?.sigma[2]).toBeCloseTo(7, 4);
    expect(a?.update).toMatchObject({ rank: 1 });
    expect(a?.update.spectral).toBeCloseTo(7, 4);
    const { code, stdout } = await scion(["diagnose", "--base", before, "--tuned", after, "--k", "6", "--eps", "0.7"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/1 intruders? in 2 matrices/);
  });

  it("have their near ties marked", async () => {
    const before = await write("tie-before.safetensors", { a: madeOf(base) });
    const near = (base[3] ?? 0) * (1 - 6e-4);
    const after = await write("tie-after.safetensors", { a: madeOf([...base, near]) });
    const [a] = (await look(before, after)).matrices;
    expect(a?.intruders).toEqual([4]);
    expect(a?.nearTies).toEqual([4]);
  });

  it("are refused with everything that differs, and where a weight is no number", async () => {
    const a = madeOf(base);
    const before = await write("left.safetensors", { a, b: a, c: a });
    const after = await write("right.safetensors", { a, b: tensor("float32", [cols, rows], 0), d: a });
    const differ = expect.stringMatching(/b is \[64, 80\] in the base and \[80, 64\].*c \[64, 80\].*d \[64, 80\]/s);
    await expect(look(before, after)).rejects.toMatchObject({ code: "models-differ", message: differ });
    const none = await write("none.safetensors", { bias: tensor("float32", [4], 0) });
    await expect(look(none, none)).rejects.toMatchObject({ code: "models-differ" });
    const broken = await write("broken.safetensors", { a: { ...a, data: a.data.with(7, Number.NaN) } });
    const fine = await write("fine.safetensors", { a });
    await expect(look(fine, broken)).rejects.toMatchObject({ code: "not-finite-weight" });
    const { code, stderr } = await scion(["diagnose", "--base", fine, "--tuned", folder]);
    expect(code).toBe(2);
    expect(stderr).toContain("One of the two is a file");
  });

  it("in 16 bits are widened before they are compared", async () => {
    const half = (values: readonly number[], dtype: DType): Tensor => castTensor(madeOf(values), dtype);
    const before = await write("half-before.safetensors", { a: half(base, "bfloat16") });
    const after = await write("half-after.safetensors", { a: half([...base, 7], "bfloat16") });
    const report = await look(before, after);
    expect(report.matrices[0]?.intruders).toEqual([2]);
    const mixed = await look(before, await write("whole.safetensors", { a: madeOf(base) }));
    expect(mixed.warnings.map(({ code }) => code)).toContain("precision-differs");
  });
});
