import { type Command, Option } from "commander";
import type { ExportForm } from "../index.ts";
import { deviceOptions, loadFlags, type ModelFlags, withModel } from "./model.ts";
import type { Output } from "./output.ts";

interface ExportFlags extends ModelFlags {
  readonly to: ExportForm;
  readonly output: string;
}

const forms: readonly ExportForm[] = ["transformers.js", "safetensors", "peft", "lora", "mlx"];

/** `scion export` */
export function define(command: Command): void {
  withModel(command.description("Write a model in another form"))
    .addOption(new Option("--to <form>", "what to write").choices(forms).makeOptionMandatory())
    .requiredOption("-o, --output <folder>", "where it goes; what is there is replaced whole")
    .addHelpText(
      "after",
      `
Examples:
  $ scion export -m ./model -a runs/tune/adapter --to transformers.js -o web/model
  $ scion export -m ./model -a runs/tune/adapter --to safetensors -o merged

  transformers.js  ONNX graph with a KV cache: pipeline("text-generation", folder)
  safetensors      merged weights in the Hugging Face layout
  peft             the adapter alone, for PeftModel.from_pretrained
  lora             the adapter as plain LoRA, whichever low-rank method trained it
  mlx              the adapter alone, for mlx_lm.load(model, adapter_path=folder)`,
    );
}

/** Run it. */
export async function run(flags: ExportFlags, output: Output): Promise<number> {
  const { exportModel } = await import("../index.ts");
  const { model, adapter } = await loadFlags(flags, output);
  await exportModel(model, flags.to, flags.output, {
    ...(adapter ? { adapter } : {}),
    deviceOptions: deviceOptions(flags),
  });
  output.say(`Wrote ${flags.output} for ${flags.to}.`);
  output.record({ written: flags.output, form: flags.to });
  return 0;
}
