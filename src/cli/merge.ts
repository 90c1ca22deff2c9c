import type { Command } from "commander";
import { deviceOptions, loadFlags, type ModelFlags, withModel } from "./model.ts";
import type { Output } from "./output.ts";
import { withReplace } from "./outputs.ts";

interface MergeFlags extends ModelFlags {
  readonly adapter: string;
  readonly output: string;
}

/** `scion merge` */
export function define(command: Command): void {
  withReplace(withModel(command.description("Fold an adapter into its model"), { adapter: false }))
    .requiredOption("-a, --adapter <folder>", "PEFT adapter")
    .requiredOption("-o, --output <folder>", "where the merged model goes (safetensors)")
    .addHelpText("after", "\nExample:\n  $ scion merge -m ./model -a runs/tune/adapter -o runs/tune/merged");
}

/** Run it. */
export async function run(flags: MergeFlags, output: Output): Promise<number> {
  const { exportModel } = await import("../index.ts");
  const { model, adapter } = await loadFlags(flags, output);
  await exportModel(model, "safetensors", flags.output, {
    ...(adapter ? { adapter } : {}),
    deviceOptions: deviceOptions(flags),
  });
  output.say(`Wrote ${flags.output}.`);
  output.record({ written: flags.output, form: "safetensors" });
  return 0;
}
