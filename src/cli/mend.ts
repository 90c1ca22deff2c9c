import { type Command, Option } from "commander";
import type { LoadedData, LoadedModel, Mended } from "../index.ts";
import { type ComparisonFlags, describeReport, loadComparison, withComparison } from "./comparison.ts";
import {
  type DataFlags,
  describeReading,
  readBaseText,
  readingOf,
  readingRecord,
  refuseIdleReading,
  withData,
} from "./data.ts";
import { deviceOptions, realNumber, withChatTemplate } from "./model.ts";
import { type Output, strong } from "./output.ts";
import type { Given } from "./parsing.ts";

interface MendFlags extends ComparisonFlags, DataFlags {
  readonly output: string;
  readonly to: "safetensors" | "peft";
  readonly rank: "exact" | "same";
  readonly mode: "top" | "all";
  readonly lambda: number;
  readonly data?: string;
  readonly baseText?: string;
}

/** `scion mend` */
export async function define(command: Command): Promise<void> {
  const { mendDefaults } = await import("../index.ts");
  withChatTemplate(withData(await withComparison(command.description("Scale the intruders of a tuned model down"))))
    .requiredOption("-o, --output <folder>", "where the mended model or adapter goes")
    .addOption(
      new Option("--to <form>", "safetensors (merged weights) or peft (a LoRA adapter)")
        .choices(["safetensors", "peft"])
        .default("safetensors"),
    )
    .addOption(
      new Option("--rank <choice>", "of the adapter: exact (r and one for each vector) or same")
        .choices(["exact", "same"])
        .default("exact"),
    )
    .addOption(
      new Option("--mode <which>", "the top intruder of each matrix, or all")
        .choices(["top", "all"])
        .default(mendDefaults.mode),
    )
    .option(
      "--lambda <x>",
      "what is kept of them: 1 changes nothing, 0 takes them out",
      realNumber,
      mendDefaults.lambda,
    )
    .option("-d, --data <file>", "measure the loss on this before and after: what the model was tuned for")
    .option("--base-text <file>", "measure forgetting on this before and after: what the base was good at")
    .addHelpText(
      "after",
      `
Examples:
  $ scion mend --base ./model --adapter runs/tune/adapter --data task.jsonl --base-text stories.txt -o mended
  $ scion mend -b ./model -a runs/tune/adapter --mode all --lambda 0.9 --to peft -o mended-adapter

Forgetting is the loss on --base-text above the base model's own. Scaling all intruders by less than 0.7 can
break a model: measure.`,
    );
}

/** Run it. */
export async function run(flags: MendFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { checkFolder, exportModel, folderKind, mend, TuneError, writeMended } = await import("../index.ts");
  if (given.has("rank") && flags.to !== "peft") {
    throw new TuneError("bad-option", `--rank would do nothing: --to ${flags.to} writes no adapter.`, {
      at: "--rank",
      fix: "leave it out, or give --to peft",
    });
  }
  refuseIdleReading(flags, {
    renames: flags.data !== undefined,
    reads: flags.data !== undefined || flags.baseText !== undefined,
  });
  const { base, options, done } = await loadComparison(flags, output);
  await checkFolder(base.platform.storage, flags.output, folderKind(flags.to));
  const texts = await readTexts(base, flags, output);
  const mended = await mend(base, { ...options, mode: flags.mode, lambda: flags.lambda });
  try {
    done();
    await describeReport(mended.report, output);
    const measures = await measure(base, mended, texts, { flags, output });
    let error = 0;
    if (flags.to === "peft") {
      const written = await mended.adapter(flags.rank);
      error = written.error;
      await exportModel(mended.model, "peft", flags.output, { adapter: written.adapter });
    } else {
      await writeMended(mended.model, flags.output, base.source);
    }
    const kept = `${flags.lambda} of ${mended.scaled} intruder${mended.scaled === 1 ? "" : "s"}`;
    output.say(`${strong("Mended")}: kept ${kept}. Wrote ${flags.output}.`);
    if (flags.to === "peft") {
      output.say(
        error === 0
          ? "The adapter holds the mended update exactly."
          : `Cut back to its rank, the adapter misses ${(100 * error).toFixed(2)} % of a module's update.`,
      );
    }
    const { matrices: _matrices, ...report } = mended.report;
    output.record({ written: flags.output, form: flags.to, scaled: mended.scaled, error, ...measures, report });
    return 0;
  } finally {
    await mended.close();
  }
}

/** What losses are measured on. */
interface Texts {
  readonly data: LoadedData | undefined;
  readonly baseText: LoadedData | undefined;
}

/** Read what the flags name, and say what was left out of it. */
async function readTexts(base: LoadedModel, flags: MendFlags, output: Output): Promise<Texts> {
  const { loadData } = await import("../index.ts");
  const data = flags.data === undefined ? undefined : await loadData(base, flags.data, readingOf(flags));
  if (data) describeReading(data, output);
  return { data, baseText: await readBaseText(base, flags.baseText, flags, output) };
}

/** Losses before and after. */
async function measure(
  base: LoadedModel,
  mended: Mended,
  { data, baseText }: Texts,
  { flags, output }: { readonly flags: MendFlags; readonly output: Output },
): Promise<Readonly<Record<string, unknown>>> {
  const { measureForgetting, evaluate } = await import("../index.ts");
  const device = deviceOptions(flags);
  const measures: Record<string, unknown> = {};
  if (data) {
    measures["data"] = readingRecord(data);
    const { train } = data;
    const before = (await evaluate(mended.unmended, train, { deviceOptions: device })).loss;
    const after = (await evaluate(mended.model, train, { deviceOptions: device })).loss;
    output.say(`task loss   ${before.toFixed(4)} → ${after.toFixed(4)} nats`);
    measures["task"] = { before, after };
  }
  if (baseText) {
    measures["baseText"] = readingRecord(baseText);
    const { train } = baseText;
    const before = await measureForgetting(base, train, { tuned: mended.unmended, deviceOptions: device });
    const after = await measureForgetting(base, train, {
      tuned: mended.model,
      baseLoss: before.baseLoss,
      deviceOptions: device,
    });
    const share =
      before.forgetting === 0 ? "" : ` (${(100 * (after.forgetting / before.forgetting - 1)).toFixed(1)} %)`;
    output.say(
      `forgetting  ${before.forgetting.toFixed(4)} → ${after.forgetting.toFixed(4)} nats${share}; the base's loss is ${before.baseLoss.toFixed(4)}`,
    );
    measures["forgetting"] = { before: before.forgetting, after: after.forgetting, baseLoss: before.baseLoss };
  }
  return measures;
}
