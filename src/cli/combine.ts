import { type Command, Option } from "commander";
import type { Combination } from "../index.ts";
import { collect, forAdapters, loadAdapters, loadFlags, type ModelFlags, wholeNumber, withModel } from "./model.ts";
import type { Output } from "./output.ts";
import { withReplace } from "./outputs.ts";

interface CombineFlags extends Omit<ModelFlags, "adapter"> {
  readonly adapter: readonly string[];
  readonly weights?: string;
  readonly how: Combination;
  readonly rank?: number;
  readonly output: string;
}

const hows: readonly Combination[] = ["cat", "svd", "linear"];

/** `scion combine` */
export function define(command: Command): void {
  withReplace(
    withModel(command.description("Add adapters up, with weights, to one LoRA adapter"), {
      adapter: false,
      device: false,
    }),
  )
    .requiredOption("-a, --adapter <[name=]folder>", "adapter of PEFT or mlx-lm; again for each", collect)
    .option("-w, --weights <numbers>", "one for each adapter, such as 0.7,0.3; 1 unless given")
    .addOption(
      new Option("--how <way>", "cat: exactly, ranks added up; svd: the best of a rank; linear: A and B apart")
        .choices(hows)
        .default("cat"),
    )
    .option("--rank <n>", "rank of the result by svd; the largest among the adapters unless given", wholeNumber)
    .requiredOption("-o, --output <folder>", "where the adapter goes (PEFT); an earlier one there is replaced whole")
    .addHelpText(
      "after",
      `
Examples:
  $ scion combine -m ./model -a runs/law/adapter -a runs/wit/adapter --weights 0.7,0.3 -o both
  $ scion combine -m ./model -a one=a/adapter -a two=b/adapter --how svd --rank 8 -o both

The ways are those of PEFT's add_weighted_adapter.`,
    );
}

/** Run it. */
export async function run(flags: CombineFlags, output: Output): Promise<number> {
  const { combine, exportModel } = await import("../index.ts");
  const { adapter: _adapters, ...modelFlags } = flags;
  const { model } = await loadFlags(modelFlags, output, forAdapters(flags));
  const adapters = await loadAdapters(model, flags, output);
  const weights = flags.weights?.split(",").map(Number);
  const adapter = combine(model, adapters, {
    how: flags.how,
    ...(weights === undefined ? {} : { weights }),
    ...(flags.rank === undefined ? {} : { rank: flags.rank }),
  });
  await exportModel(model, "peft", flags.output, { adapter });
  const { rank } = adapter.choice.config;
  output.say(`Wrote ${flags.output}: ${Object.keys(adapters).join(" and ")} by ${flags.how}, rank ${rank}.`);
  output.record({ written: flags.output, form: "peft", how: flags.how, rank });
  return 0;
}
