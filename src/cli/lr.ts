import type { Command } from "commander";
import type { RateSearch } from "../index.ts";
import { deviceOptions, memoryOptions, realNumber, wholeNumber, withIgnoreMemory } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { platformOf } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { createProgress } from "./progress.ts";
import { svgPage } from "./svg.ts";
import { openTuning, privacySets, searchSets, type TuningFlags, withTuning } from "./tuning.ts";

interface LrFlags extends TuningFlags {
  readonly from: number;
  readonly to: number;
  readonly steps: number;
  readonly picture: string;
}

const examples = `
Examples:
  $ scion lr --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion lr -m ./model -d train.jsonl --rank 16 --optimizer sgd --picture lr.svg

Takes the options of tune, but for those about rates, epochs and evaluation. The rate rises from --from to --to by equal factors, an update each; the search ends when the
loss breaks out. Nothing that is trained is kept.`;

/** `scion lr` */
export async function define(command: Command): Promise<void> {
  withIgnoreMemory(
    await withTuning(command.description("Find a learning rate: where the loss falls fastest as the rate rises"), {
      without: [...searchSets, ...privacySets, "schedule", "validation"],
    }),
  )
    .option("--from <rate>", "the first learning rate", realNumber, 1e-7)
    .option("--to <rate>", "the last", realNumber, 1)
    .option("--steps <n>", "updates in between", wholeNumber, 100)
    .option("--picture <file.svg>", "where the picture goes", "learning-rate.svg")
    .option("--replace", "replace what is there under the picture's name; never what is read")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: LrFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { checkPicture, findLearningRate, writePicture } = await import("../index.ts");
  await checkPicture(platformOf(flags).storage, flags.picture);
  const cache = `${flags.picture}.data`;
  const { model, data, choice } = await openTuning(flags, given, output, cache);
  const progress = createProgress();
  const search = await findLearningRate(model, data, {
    ...choice,
    ...memoryOptions(flags),
    ...{ from: flags.from, to: flags.to, steps: flags.steps },
    deviceOptions: deviceOptions(flags),
    onPoint: ({ learningRate, smoothed }, step) =>
      progress.update(`${step}/${flags.steps}  rate ${learningRate.toExponential(1)}  loss ${smoothed.toFixed(4)}`),
  });
  progress.clear();
  if ("close" in data) {
    await data.close();
    await model.platform.storage.prune(cache);
  }
  await writePicture(
    model.platform.storage,
    flags.picture,
    drawSearch(`${flags.data.join(", ")}: loss over learning rates`, search),
  );
  output.say(
    `The loss falls fastest at ${strong(search.suggested.toExponential(1))}, and is lowest at ${search.lowest.toExponential(1)}.`,
  );
  output.say(
    `Drew ${flags.picture}.`,
    "",
    "Next:",
    `  scion tune … --learning-rate ${search.suggested.toExponential(1)}`,
  );
  output.record(search);
  return 0;
}

const [left, top, width, height] = [64, 44, 640, 300];

/** Losses over learning rates on a scale of powers of ten, and the rate that is suggested: an SVG document. */
export function drawSearch(title: string, { points, suggested, lowest }: RateSearch): string {
  const rates = points.map(({ learningRate }) => Math.log10(learningRate));
  const [first, last] = [Math.min(...rates), Math.max(...rates)];
  const smooth = points.map(({ smoothed }) => smoothed);
  // What is far above the start is where the loss breaks out: the picture is of what comes before.
  const [low, high] = [Math.min(...smooth), Math.min(Math.max(...smooth), 1.5 * (smooth[0] ?? 1))];
  const x = (rate: number): string =>
    (left + ((Math.log10(rate) - first) / Math.max(1e-9, last - first)) * width).toFixed(1);
  const y = (loss: number): string => {
    const share = (loss - low) / Math.max(1e-9, high - low);
    return (top + (1 - Math.max(-0.03, Math.min(1.03, share))) * height).toFixed(1);
  };
  const line = (of: (point: RateSearch["points"][number]) => number): string =>
    points.map((point) => `${x(point.learningRate)},${y(of(point))}`).join(" ");
  const decades = Array.from(
    { length: Math.floor(last) - Math.ceil(first) + 1 },
    (_, i) => 10 ** (Math.ceil(first) + i),
  );
  const mark = (rate: number, colour: string, label: string, row: number): string =>
    `<line x1="${x(rate)}" y1="${top}" x2="${x(rate)}" y2="${top + height}" stroke="${colour}" stroke-dasharray="4 3"/><text x="${left + width + 14}" y="${top + 14 + 18 * row}" fill="${colour}">${label} ${rate.toExponential(1)}</text>`;
  return svgPage(title, { width: left + width + 200, height: top + height + 56 }, [
    ...decades.map(
      (rate) =>
        `<line x1="${x(rate)}" y1="${top}" x2="${x(rate)}" y2="${top + height}" stroke="#dde5df"/><text x="${x(rate)}" y="${top + height + 18}" text-anchor="middle">${rate.toExponential(0)}</text>`,
    ),
    `<text x="${left - 8}" y="${top + 4}" text-anchor="end">${high.toFixed(3)}</text><text x="${left - 8}" y="${top + height + 4}" text-anchor="end">${low.toFixed(3)}</text>`,
    `<polyline points="${line(({ loss }) => loss)}" fill="none" stroke="#c9d6cd"/>`,
    `<polyline points="${line(({ smoothed }) => smoothed)}" fill="none" stroke="#2f7d4f" stroke-width="1.8"/>`,
    mark(suggested, "#b4532a", "falls fastest at", 0),
    mark(lowest, "#2b5d9b", "lowest at", 1),
    `<text x="${left}" y="${top + height + 42}">loss over the learning rate; grey: each update, green: smoothed</text>`,
  ]);
}
