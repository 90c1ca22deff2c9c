/**
 * Updates of random directions planted in every matrix of a safetensors file, and what diagnosis finds of them: the spectra of
 * trained weights are what random matrices do not have.
 *
 *   tsx scripts/intruders/planted.ts <model.safetensors> <work folder> [picture.svg]
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { drawSpectra } from "../../src/diagnose/index.ts";
import type { Tensor } from "../../src/graph/index.ts";
import { type DiagnosisReport, diagnoseFiles } from "../../src/index.ts";
import { toFloat32 } from "../../src/io/convert.ts";
import { openSafetensors, writeSafetensors } from "../../src/io/safetensors.ts";
import { createRng, type Matrix, matmul, qr } from "../../src/linalg/index.ts";
import { nodePlatform } from "../../src/runtime/node.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

const [base, work, picture] = process.argv.slice(2);
if (!base || !work) throw new Error("usage: planted.ts <model.safetensors> <work folder> [picture.svg]");
const rank = 8;
/** Singular values of the update, in relation to the tenth of the matrix that it is planted in. */
const strengths = [0.5, 0.9, 1.1, 1.5, 2];

await mkdir(work, { recursive: true });
const { tensors } = await openSafetensors(nodeStorage, base);

function orthonormal(rows: number, name: string): Matrix<Float64Array> {
  const rng = createRng(1, name);
  return qr({ rows, cols: rank, data: Float64Array.from({ length: rows * rank }, () => rng.normal()) }).Q;
}

/** The file with `strength(name)`·Σ uⱼ·vⱼᵀ added to each matrix. */
async function plant(path: string, strength: (name: string) => number): Promise<void> {
  const planted: { readonly name: string; readonly tensor: Tensor }[] = [];
  for (const [name, lazy] of tensors) {
    const tensor = await toFloat32(lazy);
    const [rows = 0, cols = 0] = tensor.shape;
    if (tensor.shape.length === 2) {
      const update = matmul(orthonormal(rows, `${name} u`), orthonormal(cols, `${name} v`), { transB: true });
      tensor.data.forEach((value, i) => {
        tensor.data[i] = value + strength(name) * (update.data[i] ?? 0);
      });
    }
    planted.push({ name, tensor });
  }
  await writeSafetensors(nodeStorage, path, planted);
}

async function look(name: string, strength: (name: string) => number): Promise<DiagnosisReport> {
  const tuned = join(work as string, `${name}.safetensors`); // checked above
  await plant(tuned, strength);
  const options = { cacheFolder: join(work as string, "spectra"), deviceOptions: { worker: false } };
  return diagnoseFiles(nodePlatform, { base: base as string, tuned }, options);
}

const own = await look("faint", () => 1e-3);
const tenth = new Map(own.matrices.map(({ name, sigmaBase }) => [name, sigmaBase[9] ?? 0]));
console.log("| strength | intruders |\n| --- | ---: |");
for (const strength of strengths) {
  const report = await look(`planted-${strength}`, (name) => strength * (tenth.get(name) ?? 0));
  console.log(`| ${strength} σ₁₀ | ${report.total} |`);
  if (picture && strength === 1.5)
    await writeFile(picture, drawSpectra(report.matrices, "Random directions at 1.5 times each tenth singular value"));
}
