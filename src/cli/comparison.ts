import { homedir } from "node:os";
import { join } from "node:path";
import { type Command, Option } from "commander";
import type { ComparisonOptions, DiagnosisReport, LoadedModel } from "../index.ts";
import { deviceOptions, loadFlags, realNumber, wholeNumber, withDevice } from "./model.ts";
import type { Output } from "./output.ts";
import { type OutputFlags, withReplace } from "./outputs.ts";
import { count, createProgress, duration } from "./progress.ts";
import { sayTable } from "./table.ts";

/** Options of commands that compare a tuned model with its base. */
export interface ComparisonFlags extends OutputFlags {
  readonly base: string;
  readonly adapter?: string;
  readonly tuned?: string;
  readonly k: number;
  readonly eps: number;
  readonly side: "left" | "right";
  readonly method: NonNullable<ComparisonOptions["method"]>;
  readonly fused?: boolean;
  readonly cache: string;
  readonly device?: string;
  readonly threads?: number;
  readonly chatTemplate?: string;
}

/** Add them to a command. */
export async function withComparison(
  command: Command,
  { required = true }: { readonly required?: boolean } = {},
): Promise<Command> {
  const { diagnosisDefaults, diagnosisMethods } = await import("../index.ts");
  command
    .addOption(new Option("-b, --base <folder or id>", "the model before tuning").makeOptionMandatory(required))
    .option("-a, --adapter <folder>", "an adapter of it")
    .option("-t, --tuned <folder or id>", "a tuned model instead: merged, or tuned in full")
    .option("--k <n>", "leading singular vectors to look at", wholeNumber, diagnosisDefaults.k)
    .option("--eps <x>", "an intruder has no larger cosine with any of the base's", realNumber, diagnosisDefaults.eps)
    .addOption(
      new Option("--side <side>", "left (outputs) or right (inputs) singular vectors")
        .choices(["left", "right"])
        .default(diagnosisDefaults.side),
    )
    .addOption(
      new Option("--method <name>", "how: by cost unless given")
        .choices(diagnosisMethods)
        .default(diagnosisDefaults.method),
    )
    .option("--fused", "take fused projections (qkv in one matrix) as they are stored")
    .option("--cache <folder>", "where decompositions of base weights are kept", defaultCache());
  return withReplace(withDevice(command));
}

function defaultCache(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "scion", "spectra");
}

/** What the flags say of any comparison, with a progress line that `done` clears. */
export function comparisonOptions(flags: ComparisonFlags): {
  readonly options: Omit<ComparisonOptions, "adapter" | "adapterName" | "tuned">;
  readonly done: () => void;
} {
  const progress = createProgress();
  const { k, eps, side, method, fused = false, cache } = flags;
  return {
    done: () => progress.clear(),
    options: {
      ...{ k, eps, side, method, fused },
      cacheFolder: cache,
      // Products with large matrices: handing those to a worker takes longer than multiplying by them.
      deviceOptions: { ...deviceOptions(flags), worker: false },
      onProgress: ({ done, total, name, method: how, remainingMs }) => {
        const left = remainingMs === undefined ? "" : `  ${duration(remainingMs)} left`;
        progress.update(`${done}/${total}  ${name}${how === undefined ? "" : ` (${how})`}${left}`);
      },
    },
  };
}

/** Load what the flags name. */
export async function loadComparison(
  flags: ComparisonFlags,
  output: Output,
): Promise<{ readonly base: LoadedModel; readonly options: ComparisonOptions; readonly done: () => void }> {
  const { TuneError } = await import("../index.ts");
  if ((flags.adapter === undefined) === (flags.tuned === undefined)) {
    throw new TuneError("bad-option", "A base is compared with an adapter or with a tuned model, one of them.", {
      at: "--adapter and --tuned",
      fix: "give one of the two",
    });
  }
  const { adapter: _adapter, ...others } = flags;
  const { model: base, adapter } = await loadFlags({ ...flags, model: flags.base }, output);
  const tuned =
    flags.tuned === undefined ? undefined : (await loadFlags({ ...others, model: flags.tuned }, output)).model;
  const { options, done } = comparisonOptions(flags);
  return {
    base,
    done,
    options: {
      ...options,
      ...(adapter ? { adapter } : {}),
      ...(flags.adapter === undefined ? {} : { adapterName: flags.adapter }),
      ...(tuned ? { tuned } : {}),
    },
  };
}

/** Say what was found. */
export async function describeReport(report: DiagnosisReport, output: Output): Promise<void> {
  const { sayWarning } = await import("../index.ts");
  const { matrices, total, perMatrix, fractionWithIntruder, k, eps, side } = report;
  const rows = matrices
    .filter(({ intruders }) => intruders.length > 0)
    .map(({ name, intruders, maxCos, sigma, sigmaBase, update }) => [
      name,
      intruders.map((j) => j + 1).join(", "),
      Math.min(...intruders.map((j) => maxCos[j] ?? 1)).toFixed(3),
      `${sigmaBase[0]?.toPrecision(3)} → ${sigma[0]?.toPrecision(3)}`,
      update.toGap?.toPrecision(3) ?? "–",
      update.effectiveRank?.toPrecision(3) ?? "–",
    ]);
  const head = [
    "matrix",
    "intruders at",
    "least cosine",
    "largest singular value",
    "‖ΔW‖ / gap",
    "effective rank of ΔW",
  ];
  const most = 40;
  if (rows.length > 0) sayTable(output, [head, ...rows.slice(0, most)]);
  if (rows.length > most) output.say(`… and ${rows.length - most} more, in the report.`);
  output.say(
    ...(rows.length > 0 ? [""] : []),
    `${count(total)} intruders in ${count(matrices.length)} matrices (${perMatrix.toFixed(2)} a matrix, ${(100 * fractionWithIntruder).toFixed(0)} % have one): k ${k}, eps ${eps}, ${side} vectors.`,
  );
  const ranks = matrices.flatMap(({ update }) => (update.effectiveRank === null ? [] : [update.effectiveRank]));
  if (ranks.length > 0) {
    const mean = ranks.reduce((sum, value) => sum + value, 0) / ranks.length;
    output.say(
      `The update's effective rank is ${mean.toPrecision(3)} on average, from ${Math.min(...ranks).toPrecision(3)} to ${Math.max(...ranks).toPrecision(3)}.`,
    );
  }
  const methods = [...new Set(matrices.map(({ method }) => method))];
  output.say(
    `Looked at: ${methods.map((method) => `${matrices.filter((matrix) => matrix.method === method).length} ${method}`).join(", ")}.`,
  );
  for (const warning of report.warnings) output.say(`! ${sayWarning(warning)}`);
}
