import type { Command } from "commander";
import type { DiagnoseOptions, DiagnosisReport } from "../index.ts";
import {
  type ComparisonFlags,
  comparisonOptions,
  describeReport,
  loadComparison,
  withComparison,
} from "./comparison.ts";
import { type AttentionFlags, chooseAttention, runAttention, withAttention } from "./diagnose-attention.ts";
import type { Output } from "./output.ts";
import { platformOf, refuseIdleReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";

interface DiagnoseFlags extends ComparisonFlags, AttentionFlags {
  readonly output?: string;
}

/** `scion diagnose` */
export async function define(command: Command): Promise<void> {
  command.description("Say what tuning did to the weights, or which heads could attend in near-linear time");
  withAttention(await withComparison(command, { required: false }))
    .option("-o, --output <folder>", "write diagnosis.json, report.html and pictures (SVG) there")
    .addHelpText(
      "after",
      `
Examples:
  $ scion diagnose --base ./model --adapter runs/tune/adapter
  $ scion diagnose --base ./model --tuned ./tuned --output diagnosis
  $ scion diagnose -b ./model -a runs/tune/adapter --eps 0.6 --json
  $ scion diagnose --base before.safetensors --tuned after.safetensors
  $ scion diagnose --attention --model ./model --data texts.jsonl --length 4096

An intruder is one of the k leading singular vectors of a tuned matrix that is like none of the base's: its
absolute cosine with each of them is below eps. Models that have many forget more (docs/diagnosis.md).
Two safetensors files of a model that Scion does not know are compared matrix by matrix, each taken as [out, in]
(--side right for outputs where a file stores [in, out]).
With --output, a diagnosis that is cut short goes on where it was when it is started again.
With --attention, nothing is compared: every head is looked at on texts of one length (docs/attention.md).`,
    );
}

/** Run it. */
export async function run(
  flags: DiagnoseFlags,
  output: Output,
  _args: readonly string[],
  given: Given,
): Promise<number> {
  if (await chooseAttention(flags, given)) return runAttention(flags, output);
  const { claimOutput, drawCounts, drawSimilarities, drawSpectra, remarkable, reportPage } = await import(
    "../index.ts"
  );
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  refuseIdleReplace(flags, flags.output, "--output");
  const { storage } = platformOf(flags);
  const folder = flags.output;
  if (folder !== undefined) await claimOutput(storage, folder, "diagnosis");
  const { look, done } = await prepare(flags, output);
  const stop = listenForInterrupt(output, "Stopping after this matrix");
  try {
    const report = await look({
      signal: stop.signal,
      ...(folder === undefined ? {} : { journal: `${folder}/progress.jsonl` }),
    });
    done();
    await describeReport(report, output);
    if (folder !== undefined) {
      const chosen = remarkable(report.matrices);
      await storage.write(`${folder}/diagnosis.json`, `${JSON.stringify(report, null, 2)}\n`);
      await storage.write(`${folder}/report.html`, reportPage(report));
      await storage.write(`${folder}/counts.svg`, drawCounts(report));
      await storage.write(
        `${folder}/similarity.svg`,
        drawSimilarities(chosen, "Leading singular vectors before and after: |U0ᵀU|"),
      );
      await storage.write(`${folder}/spectra.svg`, drawSpectra(chosen, "Leading singular values before and after"));
      output.say("", `Wrote ${folder}/report.html, diagnosis.json, counts.svg, similarity.svg and spectra.svg.`);
    }
    output.record(report);
    return exitCodes.done;
  } finally {
    done();
    stop.release();
  }
}

/** What the flags compare: models, or files of weights. */
async function prepare(
  flags: DiagnoseFlags,
  output: Output,
): Promise<{
  readonly look: (how: Pick<DiagnoseOptions, "signal" | "journal">) => Promise<DiagnosisReport>;
  readonly done: () => void;
}> {
  const { diagnose, diagnoseFiles, TuneError } = await import("../index.ts");
  const isFile = (path: string | undefined): path is string => path?.endsWith(".safetensors") === true;
  if (isFile(flags.base) && isFile(flags.tuned)) {
    const idle = (["adapter", "fused", "chatTemplate"] as const).filter((name) => flags[name] !== undefined);
    if (idle.length > 0) {
      throw new TuneError(
        "bad-option",
        `${idle.map((name) => (name === "chatTemplate" ? "--chat-template" : `--${name}`)).join(" and ")} would do nothing beside two files.`,
        {
          at: "scion diagnose",
          fix: "leave it out, or compare a model's folder",
        },
      );
    }
    const { fused: _fused, ...rest } = comparisonOptions(flags).options;
    const { options, done } = { ...comparisonOptions(flags), options: rest };
    const files = { base: flags.base, tuned: flags.tuned };
    return { look: (how) => diagnoseFiles(platformOf(flags), files, { ...options, ...how }), done };
  }
  if (isFile(flags.base) || isFile(flags.tuned)) {
    throw new TuneError("bad-option", "One of the two is a file and the other is not.", {
      at: flags.base,
      fix: "compare a model's folder with --tuned or --adapter folders, or two safetensors files by --base and --tuned",
    });
  }
  const { base, options, done } = await loadComparison(flags, output);
  return { look: (how) => diagnose(base, { ...options, ...how }), done };
}
