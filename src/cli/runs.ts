import type { Command } from "commander";
import type { RunSummary } from "../index.ts";
import { drawCurves } from "./curves.ts";
import type { Output } from "./output.ts";
import { type OutputFlags, platformOf, refuseIdleReplace, withReplace } from "./outputs.ts";
import { count } from "./progress.ts";
import { sayTable } from "./table.ts";

interface RunsFlags extends OutputFlags {
  readonly picture?: string;
}

/** `scion runs` */
export function define(command: Command): void {
  withReplace(command)
    .description("List runs and compare them")
    .argument("[folder]", "where runs are, or one of them", "runs")
    .option("--picture <file.svg>", "draw their losses over their updates")
    .addHelpText("after", "\nExamples:\n  $ scion runs\n  $ scion runs runs/sweep --picture losses.svg");
}

/** Run it. */
export async function run(flags: RunsFlags, output: Output, [folder = "runs"]: readonly string[]): Promise<number> {
  const { findRuns, TuneError, writePicture } = await import("../index.ts");
  refuseIdleReplace(flags, flags.picture, "--picture");
  const { storage } = platformOf(flags);
  const runs = await findRuns(storage, folder);
  if (runs.length === 0) {
    throw new TuneError("file-not-found", `There is no run in ${folder}.`, {
      at: folder,
      fix: "name a folder that scion tune --output wrote, or one that holds such folders",
    });
  }
  const rows = runs.map(cells);
  const observed = [...new Set(runs.flatMap((run) => Object.keys(run.observed)))];
  const head = ["run", "method", "learning rate", "updates", "tokens", "loss", "best validation", ...observed];
  sayTable(output, [
    head,
    ...rows.map((row, i) => [...row, ...observed.map((name) => shown(runs[i]?.observed[name]))]),
  ]);
  const differing = differences(runs);
  if (differing.length > 0) output.say("", "Options that differ:", ...differing);
  if (flags.picture !== undefined) {
    await writePicture(storage, flags.picture, drawCurves(`losses of the runs in ${folder}`, runs));
    output.say("", `Drew ${flags.picture}.`);
  }
  for (const { losses: _losses, evaluations: _evaluations, ...rest } of runs) output.record(rest);
  return 0;
}

function cells({ folder, options, step, tokens, finalLoss, best }: RunSummary): string[] {
  const { method, learningRate } = options ?? {};
  return [
    folder,
    String(method ?? "…"),
    String(learningRate ?? "…"),
    count(step),
    count(tokens),
    finalLoss?.toFixed(4) ?? "",
    best ? `${best.loss.toFixed(4)} at ${count(best.step)}` : "",
  ];
}

function shown(value: number | undefined): string {
  if (value === undefined) return "";
  return Number.isInteger(value) ? count(value) : value.toFixed(4);
}

/** A line for each option that has several values among the runs. */
function differences(runs: readonly RunSummary[]): string[] {
  const known = runs.filter(({ options }) => options !== undefined);
  const names = new Set(known.flatMap(({ options }) => Object.keys(options ?? {})));
  return [...names].flatMap((name) => {
    const values = known.map(({ options }) => JSON.stringify(options?.[name]) ?? "not given");
    return name === "output" || new Set(values).size < 2 ? [] : [`  ${name.padEnd(18)} ${values.join(", ")}`];
  });
}
