import { expect } from "vitest";
import { graph, type Tensor, tensor } from "../../src/graph/index.ts";
import type { OpenGraph } from "../../src/models/architecture.ts";
import type { PretrainedModel } from "../../src/models/index.ts";
import type { Device } from "../../src/runtime/device.ts";
import { compileGraph } from "../../src/runtime/program.ts";
import type { Batch } from "../../src/train/data/index.ts";
import { chooseObjective } from "../../src/train/objectives/index.ts";

/** The only output of an open graph, on the inputs of a golden file; its parameters are on the device. */
export async function outputOf(device: Device, open: OpenGraph, inputs: ReadonlyMap<string, Tensor>): Promise<Tensor> {
  const program = await compileGraph(device, graph(open));
  const reads = Object.fromEntries(program.graph.parameters.map(({ name }) => [name, name]));
  const feeds = Object.fromEntries(program.graph.inputs.map(({ name }) => [name, inputs.get(name) as Tensor]));
  const outputs = Object.values(await program.run({ feeds, reads }));
  await program.release();
  return outputs[0] as Tensor;
}

/** Largest difference at tokens that are there, relative to the largest size in the reference. */
export function relativeError(found: Tensor, expected: Tensor, inputs: ReadonlyMap<string, Tensor>): number {
  expect(found.shape).toEqual(expected.shape);
  const mask = inputs.get("attention_mask");
  const perToken = mask && expected.shape.length === 3 && !inputs.has("decoder_input_ids");
  const width = expected.shape.at(-1) ?? 1;
  let [worst, largest] = [0, 1e-12];
  for (let i = 0; i < expected.data.length; i++) {
    if (perToken && Number(mask.data[Math.floor(i / width)]) === 0) continue;
    worst = Math.max(worst, Math.abs(Number(found.data[i]) - Number(expected.data[i])));
    largest = Math.max(largest, Math.abs(Number(expected.data[i])));
  }
  return worst / largest;
}

const objectiveOf: Readonly<Record<string, string>> = {
  "sequence-classification": "classification",
  "image-classification": "classification",
  "multi-label-classification": "multi-label-classification",
  "multi-label-image-classification": "multi-label-classification",
  regression: "regression",
  "token-classification": "token-classification",
  "seq2seq-lm": "seq2seq-lm",
};

/** One batch of a curve, as the model's objective is fed. */
export function batchAt(curve: ReadonlyMap<string, Tensor>, step: number, task: string): Batch {
  const start = `${step}.`;
  return batchOf(
    [...curve].flatMap(([name, values]) => (name.startsWith(start) ? [[name.slice(start.length), values]] : [])),
    task,
  );
}

/** What a model reads and its labels, as its objective is fed. */
export function batchOf(given: Iterable<readonly [string, Tensor]>, task: string): Batch {
  const feeds: Record<string, Tensor> = Object.fromEntries(given);
  const { labels } = feeds as { labels: Tensor };
  const [batch = 1, seq = 1] = (feeds["input_ids"] ?? labels).shape;
  if (task === "seq2seq-lm") {
    const count = Math.ceil(labels.data.length / 16) * 16;
    const padded = (of: (i: number, there: boolean) => number): number[] =>
      Array.from({ length: count }, (_, i) => (i < labels.data.length ? of(i, true) : 0));
    feeds["target_positions"] = tensor(
      "int64",
      [count],
      padded((i) => i),
    );
    feeds["label_weights"] = tensor(
      "float32",
      [count],
      padded((_, there) => Number(there)),
    );
    feeds["labels"] = tensor(
      "int64",
      [count],
      padded((i) => Number(labels.data[i] ?? 0)),
    );
    return {
      feeds,
      sizes: { batch, seq, target: labels.shape[1] ?? 1, chunk: count / 16 },
      tokens: 0,
      targets: labels.data.length,
    };
  }
  if (task === "token-classification") {
    const given = Array.from(labels.data, Number);
    feeds["labels"] = tensor(
      "int64",
      [given.length],
      given.map((label) => Math.max(0, label)),
    );
    feeds["label_weights"] = tensor(
      "float32",
      [given.length],
      given.map((label) => Number(label >= 0)),
    );
    return { feeds, sizes: { batch, seq }, tokens: 0, targets: given.filter((label) => label >= 0).length };
  }
  const [examples = 1] = labels.shape;
  if (task === "regression" && labels.shape.length === 1) feeds["labels"] = { ...labels, shape: [examples, 1] };
  return { feeds, sizes: { batch, seq }, tokens: 0, targets: examples };
}

/** The objective of a model's task. */
export function chooseObjectiveOf({ task }: PretrainedModel): ReturnType<typeof chooseObjective> {
  const name = objectiveOf[task] ?? task;
  const kinds = {
    classification: "label",
    "multi-label-classification": "labels",
    regression: "score",
    "token-classification": "tags",
    "causal-lm": "sequence",
  } as const;
  return chooseObjective(name, {}, kinds[name as keyof typeof kinds] ?? "target");
}
