import { basename, extname } from "node:path";
import { type Command, Option } from "commander";
import type { ContinualResult } from "../index.ts";
import { readBaseText, readingRecord } from "./data.ts";
import { deviceOptions, memoryOptions, withIgnoreMemory } from "./model.ts";
import type { Output } from "./output.ts";
import { startsOver, withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress, duration } from "./progress.ts";
import { sayTable } from "./table.ts";
import { loadTuningData, openTuned, privacySets, type TuningFlags, tuningChoice, withTuning } from "./tuning.ts";

interface ContinualFlags extends TuningFlags {
  readonly then: readonly string[];
  readonly between: "merge" | "apart";
  readonly baseText?: string;
  readonly output: string;
  readonly resume?: boolean;
}

/** `scion continual` */
export async function define(command: Command): Promise<void> {
  withIgnoreMemory(
    withReplace(
      await withTuning(command.description("Tune on several data sets in order, and measure all after each"), {
        without: privacySets,
      }),
      startsOver,
    ),
  )
    .requiredOption("--then <files...>", "the data sets that follow, in order")
    .addOption(
      new Option("--between <way>", "merge (each task starts from the last one's weights) or apart (each on the base)")
        .choices(["merge", "apart"])
        .default("merge"),
    )
    .option("--base-text <file>", "measure forgetting after each: the loss on this above the base model's")
    .option("-o, --output <folder>", "where results go, one folder a task", "runs/continual")
    .option("--resume", "go on after the last task that is done")
    .addHelpText(
      "after",
      `
Example:
  $ scion continual -m ./model -d first.jsonl --then second.jsonl third.jsonl --base-text stories.txt

Prints the loss on every data set after each, forgetting, and the intruder dimensions against the first base
(docs/diagnosis.md); the same is in continual.json of the output folder, with a model and an adapter a task.`,
    );
}

/** Run it. */
export async function run(
  flags: ContinualFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  const { checkOutput, tuneInOrder } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  const model = await openTuned(flags, given, output);
  await checkOutput(model.platform.storage, flags.output, "continual");
  const tasks = [];
  for (const [i, data] of [flags.data, ...flags.then.map((file) => [file])].entries()) {
    const [first = ""] = data;
    const name = basename(first, extname(first)).replace(/:[\d.]+$/, "");
    const folder = `${flags.output}/${i + 1}-${name}`;
    tasks.push({ name, data: await loadTuningData(model, { ...flags, data }, output, folder) });
  }
  const text = await readBaseText(model, flags.baseText, flags, output);
  if (text) output.record({ kind: "base-text", ...readingRecord(text) });
  const stop = listenForInterrupt(output, "Saving after this update");
  const progress = createProgress();
  try {
    const [first] = tasks;
    const result = await tuneInOrder(model, tasks, {
      ...(first ? await tuningChoice(flags, given, first.data.kind) : {}),
      output: flags.output,
      between: flags.between,
      resume: flags.resume === true,
      baseText: text?.train ?? [],
      ...memoryOptions(flags),
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: (event) => {
        output.record(event);
        if (event.kind === "measured") progress.clear();
        else if (event.event.kind === "step") {
          const { step, steps, loss, remainingMs } = event.event;
          progress.update(`${event.name}: ${step}/${steps}  loss ${loss.toFixed(4)}  ${duration(remainingMs)} left`);
        }
      },
    });
    progress.clear();
    show(result, output);
    output.record({ kind: "end", ...result });
    return result.stages.length < tasks.length ? exitCodes.interrupted : exitCodes.done;
  } finally {
    stop.release();
  }
}

function show({ tasks, base, stages }: ContinualResult, output: Output): void {
  const forgets = stages.some(({ forgetting }) => forgetting !== undefined);
  const head = ["after", ...tasks, ...(forgets ? ["forgetting"] : []), "intruders"];
  const first = ["base", ...base.map((loss) => loss.toFixed(4)), ...(forgets ? ["0.0000"] : []), "0"];
  const rows = stages.map(({ name, losses, forgetting, intruders }) => [
    name,
    ...losses.map((loss) => loss.toFixed(4)),
    ...(forgets ? [forgetting?.toFixed(4) ?? ""] : []),
    count(intruders),
  ]);
  sayTable(output, [head, first, ...rows]);
}
