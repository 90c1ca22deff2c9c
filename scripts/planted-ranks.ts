import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { drawRanks } from "../src/cli/ranks.ts";
import { input, type LazyTensor, type Tensor, tensor, type Value, weight, withScope } from "../src/graph/index.ts";
import { createRng } from "../src/linalg/index.ts";
import { chooseMethod, type MethodChoice, methods, ranksLeft } from "../src/methods/index.ts";
import type { PretrainedModel } from "../src/models/index.ts";
import { add, linear, mul, reciprocal, sub, sumSquares, tanh } from "../src/ops/index.ts";
import { chooseOptimizer } from "../src/optim/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import type { Batch } from "../src/train/data/index.ts";
import type { ObjectiveChoice } from "../src/train/objectives/index.ts";
import { openTrainer } from "../src/train/trainer.ts";

/*
 * Ranks that are known: a network of four layers learns to be a copy of itself that differs by rank 4 in layers 1 and 3.
 * Does AdaLoRA put its budget there, and does that beat the same budget shared out evenly?
 *   npx tsx scripts/planted-ranks.ts
 * x ← x + tanh(Lᵢx) for i = 0, 1, 2, then L₃x; 32 wide; 2048 examples, batches of 64, 600 updates of AdamW at 5e-3.
 * Prints the errors on 2048 others; draws the last seed's ranks to docs/methods/adalora-ranks.svg.
 */
const [width, examples, batchSize, steps, planted] = [32, 2048, 64, 600, 4];
const device = await openNodeDevice({ worker: false, threads: 1 });

function normals(seed: number, name: string, size: number): Float32Array {
  const { normal } = createRng(seed, name);
  return Float32Array.from({ length: size }, normal);
}

/** Weights as torch.nn.Linear starts them. */
function student(seed: number): readonly Float32Array[] {
  return Array.from({ length: 4 }, (_, i) => {
    const { uniform } = createRng(seed, "student", i);
    return Float32Array.from({ length: width * width }, () => (2 * uniform() - 1) / Math.sqrt(width));
  });
}

function teacher(seed: number): readonly Float32Array[] {
  return student(seed).map((own, layer) => {
    if (layer % 2 === 0) return own;
    const [left, right] = [
      normals(seed, `left ${layer}`, width * planted),
      normals(seed, `right ${layer}`, width * planted),
    ];
    return own.map((value, i) => {
      let sum = 0;
      for (let k = 0; k < planted; k++)
        sum += (left[Math.floor(i / width) * planted + k] ?? 0) * (right[k * width + (i % width)] ?? 0);
      return value + 0.06 * sum;
    });
  });
}

/** What a network makes of rows [n, width]. */
function outputs(weights: readonly Float32Array[], rows: Float32Array): Float32Array {
  const result = new Float32Array(rows.length);
  for (let row = 0; row < rows.length; row += width) {
    let x = Array.from(rows.subarray(row, row + width), Number);
    weights.forEach((own, layer) => {
      const product = x.map((_, i) => x.reduce((sum, value, j) => sum + value * (own[i * width + j] ?? 0), 0));
      x = layer < 3 ? x.map((value, i) => value + Math.tanh(product[i] ?? 0)) : product;
    });
    result.set(x, row);
  }
  return result;
}

/** The network and its mean squared error as an objective. */
function objectiveOf(seed: number): ObjectiveChoice["objective"] {
  return {
    ...{ name: "regression", summary: "mean squared error", fields: {}, learnsFrom: "sequence", meanOver: "values" },
    examples: { refused: "nothing is learnt from examples" },
    forward: () => {
      const x = input("x", "float32", ["rows", width]);
      let y: Value = x;
      student(seed).forEach((data, i) => {
        const source: LazyTensor = {
          ...{ dtype: "float32", shape: [width, width], sizeBytes: 4 * data.length },
          read: async () => ({ dtype: "float32", shape: [width, width], data: data.slice() }),
        };
        const product = withScope(`layers.${i}`, () => linear(y, weight(`layers.${i}.weight`, source)));
        y = i < 3 ? add(y, tanh(product)) : product;
      });
      return { inputs: [x], outputs: { y } };
    },
    loss: ({ tuned }) => {
      const [t, normaliser] = [input("t", "float32", ["rows", width]), input("normaliser", "float32", [])];
      const loss = mul(sumSquares(sub(tuned["y"] as Value, t)), reciprocal(normaliser));
      return { inputs: [t, normaliser], loss, measures: {} };
    },
    batch: () => {
      throw new Error("batches are made here");
    },
  };
}

function batchOf(x: Float32Array, t: Float32Array): Batch {
  const shape = [x.length / width, width];
  const feeds: Record<string, Tensor> = { x: tensor("float32", shape, x), t: tensor("float32", shape, t) };
  return { feeds, targets: x.length, tokens: shape[0] ?? 0, sizes: { rows: shape[0] ?? 0 } };
}

async function run(
  seed: number,
  choice: MethodChoice,
): Promise<{ error: number; ranks: ReturnType<typeof ranksLeft> }> {
  const [x, other] = [normals(seed, "x", examples * width), normals(seed, "test", examples * width)];
  const [t, otherT] = [outputs(teacher(seed), x), outputs(teacher(seed), other)];
  const trainer = await openTrainer(
    device,
    { folder: "planted", architecture: { outputModule: "" } } as PretrainedModel,
    {
      ...{ choice, targets: /layers\.\d/, objective: { objective: objectiveOf(seed), config: {} }, seed, steps },
      ...{
        optimizer: chooseOptimizer("adamw", { weightDecay: 0 }),
        maxGradNorm: 0,
        memory: "fast",
        accumulates: false,
      },
    },
  );
  const { integer } = createRng(seed, "order");
  for (let step = 1; step <= steps; step++) {
    const rows = Array.from({ length: batchSize }, () => integer(examples) * width);
    const take = (of: Float32Array): Float32Array =>
      Float32Array.from(rows.flatMap((row) => [...of.subarray(row, row + width)]));
    await trainer.step(step, [batchOf(take(x), take(t))], 5e-3);
  }
  const { loss } = await trainer.evaluate([batchOf(other, otherT)]);
  const ranks = ranksLeft({ choice, parameters: await trainer.state() });
  await trainer.close();
  return { error: loss, ranks };
}

const budget = { budgetWarmup: 60, budgetFinal: 200, budgetEvery: 10, orthogonalWeight: 0.1 };
const sides: Readonly<Record<string, MethodChoice>> = {
  "adalora 4 → 2": chooseMethod("adalora", { initialRank: 4, targetRank: 2, alpha: 4, ...budget }),
  "lora 2": chooseMethod("lora", { rank: 2, alpha: 2 }),
  "lora 4": chooseMethod("lora", { rank: 4, alpha: 4 }),
};
if (!methods.has("adalora")) throw new Error("there is no AdaLoRA");
console.log(
  `seed  ${Object.keys(sides)
    .map((name) => name.padEnd(14))
    .join("  ")}  AdaLoRA's ranks (planted: 0, 4, 0, 4)`,
);
for (const seed of [0, 1, 2]) {
  const found = [];
  for (const choice of Object.values(sides)) found.push(await run(seed, choice));
  const [own] = found as [(typeof found)[number]];
  console.log(
    `${String(seed).padEnd(5)} ${found.map(({ error }) => error.toFixed(4).padEnd(14)).join("  ")}  ${own.ranks.map(({ rank }) => rank).join(", ")}`,
  );
  const picture = drawRanks("AdaLoRA on planted ranks 0, 4, 0, 4: triplets left of 4", own.ranks);
  await writeFile(fileURLToPath(new URL("../docs/methods/adalora-ranks.svg", import.meta.url)), picture);
}
await device.close();
