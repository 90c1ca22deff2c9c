import { describeRun, type TuningChoice } from "../../src/api/describe-run.ts";
import type { LoadedModel } from "../../src/api/load-model.ts";
import { print } from "../../src/graph/index.ts";
import { contentHash } from "../../src/io/content-hash.ts";
import { initialTensor } from "../../src/methods/index.ts";
import { chooseOptimizer } from "../../src/optim/index.ts";
import type { ExampleKind } from "../../src/train/data/index.ts";
import { memoryChoices } from "../../src/train/memory.ts";
import { scheduleOf } from "../../src/train/method-schedule.ts";
import { graphsOf } from "../../src/train/plan.ts";
import { randomExamples } from "./tiny-model.ts";

/** Updates that scalars are worked out for. */
const steps = 20;

/**
 * All that a choice makes of a model before the first update, by part: the graphs of a step, what is trained, how and from
 * which values, what is dropped, how weights lie, and the scalars of every update. Where two choices make the same, one of
 * them was ignored.
 * @throws {TuneError} where the choice is refused.
 */
export async function whatIsMade(
  model: LoadedModel,
  kind: ExampleKind,
  choice: TuningChoice,
): Promise<Readonly<Record<string, string>>> {
  const run = await describeRun(model, { train: randomExamples(4), validation: [], kind }, choice);
  const { settings } = run;
  const graphs = graphsOf(run);
  const { trainables, dropoutMasks } = graphs.attached;
  const starts = await Promise.all(
    trainables.map(async (trainable) => {
      const { data } = await initialTensor(trainable, settings.seed);
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      return `${trainable.value.name} ${contentHash(bytes)}`;
    }),
  );
  const { optimizer, config } = chooseOptimizer(settings.optimizer, settings.optimizerOptions);
  const schedule = scheduleOf(run.choice, trainables, steps);
  // A scalar that no graph reads decides nothing.
  const read = new Set(
    [graphs.gradient, graphs.update].flatMap((of) => of?.graph.inputs.map(({ name }) => name) ?? []),
  );
  const scalars = Array.from({ length: steps }, (_, i) => ({
    ...optimizer.scalars(i + 1, 1e-3, config),
    ...schedule?.scalars(i + 1),
  })).map((all) => Object.entries(all).filter(([name]) => read.has(name)));
  return {
    gradient: print(graphs.gradient.graph),
    update: graphs.update ? print(graphs.update.graph) : "",
    trained: trainables.map(({ value, trained }) => `${value.name} ${value.shape} ${trained}`).join("\n"),
    starts: starts.join("\n"),
    dropped: dropoutMasks.map(({ value, rate }) => `${value.name} ${rate}`).join("\n"),
    scalars: JSON.stringify([scalars, schedule?.settledFrom]),
    held: JSON.stringify(memoryChoices[settings.memory].laidOutBytes),
  };
}
