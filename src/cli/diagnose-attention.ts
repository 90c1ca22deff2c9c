import type { Command } from "commander";
import type { AttentionReport } from "../index.ts";
import type { ComparisonFlags } from "./comparison.ts";
import { type DataFlags, describeReading, readingOf, readingRecord, withData } from "./data.ts";
import { loadFlags, realNumber, wholeNumber, withChatTemplate } from "./model.ts";
import type { Output } from "./output.ts";
import { type OutputFlags, platformOf, refuseIdleReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { createProgress } from "./progress.ts";
import { sayTable } from "./table.ts";

/** Options of `scion diagnose --attention`. */
export interface AttentionFlags extends OutputFlags, DataFlags {
  readonly attention?: boolean;
  readonly model?: string;
  readonly data?: string;
  readonly length?: number;
  readonly texts: number;
  readonly weightError: number;
  readonly attentionError?: number;
}

/** Add them to a command. */
export function withAttention(command: Command): Command {
  return withChatTemplate(withData(command))
    .option("--attention", "look at the scores of every head instead: which could attend by a polynomial")
    .option("-m, --model <folder or id>", "with --attention: the model")
    .option("-d, --data <file>", "with --attention: texts, laid end to end")
    .option("--length <tokens>", "with --attention: how long texts are", wholeNumber)
    .option("--texts <n>", "with --attention: how many texts at most, up to 8", wholeNumber, 4)
    .option("--weight-error <x>", "with --attention: a head is certified up to this error of weights", realNumber, 0.03)
    .option(
      "--attention-error <x>",
      "with --attention: let heads qualify by the error of outputs on sampled queries too",
      realNumber,
    );
}

const own = ["columns", "skipBadRows", "model", "data", "length", "texts", "weightError", "attentionError"] as const;
const shared = ["attention", "adapter", "output", "replace", "device", "threads", "chatTemplate", "json", "config"];

/**
 * Whether attention is looked at.
 * @throws {TuneError} `bad-option` naming every flag that would do nothing in the mode that is asked for.
 */
export async function chooseAttention(
  flags: AttentionFlags & Partial<ComparisonFlags>,
  given: Given,
): Promise<boolean> {
  const { TuneError } = await import("../index.ts");
  const flagOf = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  const attention = flags.attention === true;
  const idle = [...given].filter((name) =>
    attention ? ![...shared, ...own].includes(name) : (own as readonly string[]).includes(name),
  );
  const missing = attention
    ? (["model", "data", "length"] as const).filter((name) => flags[name] === undefined)
    : flags.base === undefined
      ? ["base"]
      : [];
  const problems = [
    ...idle.map((name) => `${flagOf(name)} would do nothing ${attention ? "with" : "without"} --attention.`),
    ...missing.map((name) => `${flagOf(name)} is missing.`),
  ];
  if (problems.length === 0) return attention;
  throw new TuneError("bad-option", problems, {
    at: `scion diagnose${attention ? " --attention" : ""}`,
    fix: attention
      ? "give --model, --data and --length, and leave the rest out"
      : "give --base with --adapter or --tuned; flags of --attention go with it",
  });
}

/** Look at every head, say what was found, and write it where that is asked for. */
export async function runAttention(flags: AttentionFlags & ComparisonFlags, output: Output): Promise<number> {
  const { attentionPage, claimOutput, diagnoseAttention, drawDegrees, drawHeads, loadData, sayQualified } =
    await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { deviceOptions } = await import("./model.ts");
  const { output: folder } = flags as { readonly output?: string };
  refuseIdleReplace(flags, folder, "--output");
  const { storage } = platformOf(flags);
  if (folder !== undefined) await claimOutput(storage, folder, "attention");
  const { model, data: path, length, texts, weightError, attentionError } = flags;
  const { model: loaded, adapter } = await loadFlags({ ...flags, model: model as string }, output); // checked to be there
  const data = await loadData(loaded, path as string, {
    validation: 0,
    tooLong: "split",
    ...readingOf(flags),
  }); // likewise
  describeReading(data, output);
  output.record({ kind: "data", format: data.format, ...data.report, ...readingRecord(data) });
  const progress = createProgress();
  try {
    const { report, plan } = await diagnoseAttention(loaded, data.train, {
      length: length as number, // likewise
      texts,
      weightError,
      ...(attentionError === undefined ? {} : { attentionError }),
      ...(adapter ? { adapter, adapterName: flags.adapter as string } : {}),
      deviceOptions: deviceOptions(flags),
      onProgress: (done, total) => progress.update(`${done}/${total} looks at texts of ${length} tokens`),
    });
    progress.clear();
    describe(report, output, sayQualified(report.qualified, report.keyHeads));
    if (folder !== undefined) {
      await storage.write(`${folder}/attention.json`, `${JSON.stringify({ ...report, plan }, null, 2)}\n`);
      await storage.write(`${folder}/report.html`, attentionPage(report));
      await storage.write(`${folder}/heads.svg`, drawHeads(report));
      await storage.write(`${folder}/degrees.svg`, drawDegrees(report));
      output.say("", `Wrote ${folder}/report.html, attention.json, heads.svg and degrees.svg.`);
    }
    output.record({ ...report, plan });
    return exitCodes.done;
  } finally {
    progress.clear();
  }
}

function describe({ heads, length, threshold, weightError }: AttentionReport, output: Output, verdict: string): void {
  const sorted = [...heads].sort((a, b) => a.bound - b.bound);
  const shown = sorted.slice(0, 12);
  const rows = shown.map(({ layer, head, bound, scores, degrees, verdict: of }) => [
    `${layer}.${head}`,
    bound.toPrecision(3),
    scores.max.toPrecision(3),
    ...degrees.flatMap(({ weightError: certified, sampled }) => [
      certified.toExponential(1),
      sampled.max.toExponential(1),
    ]),
    of.kind === "polynomial" ? `degree ${of.degree} (${of.by})` : "exact",
  ]);
  const head = [
    "layer.head",
    "R",
    "largest |score|",
    "degree 2: certified",
    "sampled",
    "degree 4: certified",
    "sampled",
    "",
  ];
  sayTable(output, [head, ...rows]);
  if (heads.length > shown.length) output.say(`… and ${heads.length - shown.length} heads with larger scores.`);
  output.say(
    "",
    `R bounds |score| on texts of ${length} tokens; certified: the largest error of a weight that R allows (${weightError} at most);`,
    `sampled: the largest error of an output among sampled queries. √(ln ${length}) = ${threshold.toFixed(2)}.`,
    verdict,
  );
}
