/**
 * Quality of every quantisation scheme on real models, as a table and a picture:
 *
 *   npm run bench:quantise -- --model ../shared/models/babyllama-tok105 --calibration calibration.jsonl \
 *     --evaluation heldout.jsonl [--bits 2,3,4,mixed:2.5] [--tune-steps 300] [--picture docs/shiftadd-quality.svg]
 *   npm run bench:quantise -- --matrices ../shared/models/gpt2-attention-layers/model.safetensors [--only h.0]
 *
 * The second form measures the output error of single matrices on made-up inputs (correlated, four channels eight times
 * as loud), which the files do not hold: it compares schemes, and says nothing of the model they come from.
 */
import { writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { parseArgs } from "node:util";
import {
  type BitsChoice,
  compareQuantized,
  loadData,
  loadModel,
  type QuantizedRow,
  standardCandidates,
} from "../src/index.ts";
import { toFloat32 } from "../src/io/convert.ts";
import { dequantise, packedSize } from "../src/io/packed/index.ts";
import { openSafetensors } from "../src/io/safetensors.ts";
import { createRng } from "../src/linalg/index.ts";
import { chooseScheme, schemes } from "../src/quant/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { drawQuality } from "./quantise-picture.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string" },
    calibration: { type: "string" },
    evaluation: { type: "string" },
    bits: { type: "string", default: "2,3,4" },
    "tune-steps": { type: "string", default: "0" },
    output: { type: "string", default: "runs/quantise" },
    picture: { type: "string" },
    matrices: { type: "string" },
    only: { type: "string", default: "" },
  },
});

if (values.matrices !== undefined) await measureMatrices(values.matrices, values.only);
else await measureModel();

async function measureModel(): Promise<void> {
  const { model: source = "", calibration = "", evaluation = "" } = values;
  const model = await loadModel(source, { platform: nodePlatform });
  const maxLength = Math.min(256, model.pretrained.sizes.contextLength);
  const data = await loadData(model, calibration, { validationPath: evaluation, maxLength, tooLong: "truncate" });
  const rows: (QuantizedRow & { readonly bits: string })[] = [];
  console.log("| bits | scheme | bits a weight | loss | perplexity | file |\n| --- | --- | --- | --- | --- | --- |");
  for (const bits of values.bits.split(",")) {
    const average = /^mixed:(.+)$/.exec(bits)?.[1];
    const choice: BitsChoice = average === undefined ? Number(bits) : { average: Number(average) };
    const steps = Number(values["tune-steps"]);
    const candidates = standardCandidates({
      bits: choice,
      ...(steps > 0 ? { tuneScales: { maxSteps: steps, learningRate: 1e-3 } } : {}),
    });
    await compareQuantized(model, data, {
      candidates,
      output: `${values.output}/${bits.replace(":", "-")}`,
      onRow: (row) => {
        if (row.report === undefined && rows.some(({ report }) => report === undefined)) return;
        rows.push({ ...row, bits });
        const { report } = row;
        const size = report ? `${(report.fileBytes / 1e6).toFixed(2)} MB` : "";
        console.log(
          `| ${report ? bits : ""} | ${row.name} | ${report?.bitsPerWeight.toFixed(3) ?? ""} | ${row.loss.toFixed(4)} | ${row.perplexity.toFixed(3)} | ${size} |`,
        );
      },
    });
  }
  if (values.picture !== undefined) await writeFile(values.picture, drawQuality(basename(source), rows));
}

async function measureMatrices(path: string, only: string): Promise<void> {
  const { tensors } = await openSafetensors(nodePlatform.storage, path);
  console.log("| matrix | bits | scheme | bits a weight | relative output error |\n| --- | --- | --- | --- | --- |");
  for (const [name, lazy] of tensors) {
    if (!name.includes(only) || lazy.shape.length !== 2) continue;
    // GPT-2 stores [inputs, outputs].
    const [columns = 0, rows = 0] = lazy.shape;
    const { data } = await toFloat32(lazy);
    const weight = new Float64Array(rows * columns);
    for (let k = 0; k < columns; k++) for (let r = 0; r < rows; r++) weight[r * columns + k] = data[k * rows + r] ?? 0;
    const { hessian, held } = madeUpInputs(columns);
    const whole = outputEnergy(weight, held, columns);
    for (const bits of [2, 3]) {
      for (const method of schemes.keys()) {
        const { scheme, config } = chooseScheme(method);
        const { matrix } = await scheme.quantise({ name, rows, columns, weight, hessian }, bits, config);
        const q = dequantise(matrix);
        const error =
          outputEnergy(
            weight.map((w, i) => w - (q[i] ?? 0)),
            held,
            columns,
          ) / whole;
        const bpw = packedSize(matrix).bitsPerWeight;
        console.log(`| ${name} | ${bits} | ${method} | ${bpw.toFixed(3)} | ${error.toFixed(4)} |`);
      }
    }
  }
}

function madeUpInputs(columns: number): {
  readonly hessian: { readonly columns: number; readonly values: Float64Array };
  readonly held: readonly Float64Array[];
} {
  const rng = createRng(1, "inputs");
  const factors = 64;
  const mixing = Float64Array.from({ length: columns * factors }, () => rng.normal());
  const sample = (): Float64Array => {
    const z = Float64Array.from({ length: factors }, () => rng.normal());
    return Float64Array.from({ length: columns }, (_, j) => {
      let sum = 3 * rng.normal();
      for (let i = 0; i < factors; i++) sum += (z[i] ?? 0) * (mixing[j * factors + i] ?? 0);
      return j < 4 ? 8 * sum : sum;
    });
  };
  const values = new Float64Array(columns * columns);
  for (let s = 0; s < 4 * columns; s++) {
    const x = sample();
    for (let i = 0; i < columns; i++) {
      const own = x[i] ?? 0;
      for (let j = 0; j < columns; j++) values[i * columns + j] = (values[i * columns + j] ?? 0) + own * (x[j] ?? 0);
    }
  }
  return { hessian: { columns, values }, held: Array.from({ length: 64 }, sample) };
}

function outputEnergy(weight: Float64Array, inputs: readonly Float64Array[], columns: number): number {
  let total = 0;
  for (const x of inputs) {
    for (let r = 0; r < weight.length / columns; r++) {
      let y = 0;
      for (let k = 0; k < columns; k++) y += (weight[r * columns + k] ?? 0) * (x[k] ?? 0);
      total += y * y;
    }
  }
  return total;
}
