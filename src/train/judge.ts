import { assert } from "../errors.ts";
import { type Tensor, tensor, type Value } from "../graph/index.ts";
import { type Adapter, attach, checkParameters } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { Device } from "../runtime/device.ts";
import { withShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import { roughKernelsOf } from "../runtime/provider.ts";
import { fold, precise, readInPlace } from "../transforms/index.ts";
import { type BaseWeightsName, heldGraph } from "./base-weights.ts";
import type { LayoutOptions, TokenizedExample } from "./data/index.ts";
import { addUp, type Measured, measuredIn } from "./evaluator.ts";
import type { ObjectiveChoice } from "./objectives/index.ts";
import type { Judgement, Task } from "./tasks/index.ts";

/** What is judged, how. */
export interface JudgeOptions {
  readonly objective: ObjectiveChoice;
  readonly layout: LayoutOptions;
  readonly batchSize: number;
  readonly adapter?: Adapter;
  /** How frozen weights are held; in float32 unless given. */
  readonly baseWeights?: BaseWeightsName;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Name of what the model says among a program's outputs. */
const saidName = "said";

/**
 * The mean loss of examples, and the scores of what the model says of them.
 * @throws {TuneError} `adapter-mismatch` when the adapter's tensors do not fit the model.
 */
export function judgeExamples(
  device: Device,
  model: PretrainedModel,
  judge: NonNullable<Task["judge"]>,
  examples: readonly TokenizedExample[],
  options: JudgeOptions,
): Promise<Measured & { readonly targets: number }> {
  return withShare(device, (share) => judgeAlone(share, model, judge, examples, options));
}

async function judgeAlone(
  device: Device,
  model: PretrainedModel,
  judge: NonNullable<Task["judge"]>,
  examples: readonly TokenizedExample[],
  options: JudgeOptions,
): Promise<Measured & { readonly targets: number }> {
  const { layout, batchSize, adapter, onProgress } = options;
  const { objective, config } = options.objective;
  const { inputs, outputs } = objective.forward(model);
  const { outputModule } = model.architecture;
  const attached = adapter && attach(outputs, { ...adapter, outputModule, training: false });
  const tuned = attached?.outputs ?? outputs;
  const defined = objective.loss({ tuned, pretrained: outputs }, config);
  const [said] = Object.values(tuned);
  assert(said !== undefined, "a model says something");
  const named = { loss: defined.loss, ...defined.measures, [saidName]: said };
  const folded = readInPlace(precise(fold(Object.values(named)), roughKernelsOf(device.provider)));
  const closed = Object.fromEntries(Object.keys(named).map((name, i) => [name, folded[i] as Value])); // one a name
  const parts = { name: "judge", inputs: [...inputs, ...defined.inputs], outputs: closed };
  const program = await compileGraph(device, heldGraph(options.baseWeights, parts));
  const reads: Record<string, string> = {};
  if (attached && adapter) {
    checkParameters(attached.trainables, adapter.parameters, model.folder);
    for (const [name, values] of adapter.parameters) {
      reads[name] = name;
      await device.upload(name, values);
    }
  }
  const sorted = examples.toSorted((a, b) => a.inputIds.length - b.inputIds.length);
  const all: Measured[] = [];
  const judgements: Judgement[] = [];
  let targets = 0;
  for (let start = 0; start < sorted.length; start += batchSize) {
    const rows = sorted.slice(start, start + batchSize);
    const batch = objective.batch(rows, layout);
    const feeds = { ...batch.feeds, normaliser: tensor("float32", [], [1]) };
    const { [saidName]: answer, ...scalars } = await program.run({ feeds, reads });
    all.push(measuredIn(scalars));
    judgements.push(...rows.map((example, i) => ({ example, said: rowsOf(answer as Tensor, i, rows.length) }))); // an output
    targets += batch.targets;
    onProgress?.(start + rows.length, sorted.length);
  }
  const { loss, measures } = addUp(all, Math.max(1, targets));
  return { loss, measures: { ...measures, ...judge(judgements, model.labels ?? []) }, targets };
}

/** What is said of one of `count` examples, which may have several rows: its own of every `count` of them. */
function rowsOf({ shape, data }: Tensor, index: number, count: number): Float32Array {
  const rows = shape[0] ?? 1;
  const size = data.length / rows;
  const parts = Array.from({ length: rows / count }, (_, part) => {
    const start = (part * count + index) * size;
    return data.slice(start, start + size) as Float32Array; // what models say is float32
  });
  const whole = new Float32Array(parts.length * size);
  parts.forEach((part, i) => {
    whole.set(part, i * size);
  });
  return whole;
}
