import { type Command, Option } from "commander";
import type { ExportFormName } from "../index.ts";
import { deviceOptions, loadFlags, type ModelFlags, withModel } from "./model.ts";
import type { Output } from "./output.ts";
import { withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";

interface ExportFlags extends ModelFlags {
  readonly to: ExportFormName;
  readonly output: string;
  readonly dtype?: readonly string[];
  readonly preTokenizer?: string;
}

/** `scion export` */
export async function define(command: Command): Promise<void> {
  const { exportForms } = await import("../index.ts");
  const names = Object.keys(exportForms);
  const width = Math.max(...names.map(({ length }) => length));
  const forms = Object.entries(exportForms).map(([name, { summary, use, dtypes }]) => {
    const held = dtypes.length > 0 ? ` (--dtype ${dtypes.join(", ")})` : "";
    return `  ${name.padEnd(width)}  ${summary}${held}\n  ${" ".repeat(width)}  ${use}`;
  });
  withReplace(withModel(command.description("Write a model in another form")))
    .addOption(new Option("--to <form>", "what to write").choices(names).makeOptionMandatory())
    .option("--dtype <names>", "what numbers are held in, with commas between several", (text) =>
      text.split(",").map((name) => name.trim()),
    )
    .option("--pre-tokenizer <name>", "how llama.cpp cuts texts, where the tokenizer is like none of its own (gguf)")
    .requiredOption(
      "-o, --output <folder>",
      "where it goes; an earlier export of the same form there is replaced whole",
    )
    .addHelpText(
      "after",
      `
Examples:
  $ scion export -m ./model -a runs/tune/adapter --to transformers.js -o web/model
  $ scion export -m ./model -a runs/tune/adapter --to gguf --dtype q8_0 -o mine

Forms:
${forms.join("\n")}`,
    );
}

/** Run it. */
export async function run(flags: ExportFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { checkExport, exportForms, exportModel, pipelineNote, TuneError } = await import("../index.ts");
  const options = {
    ...(flags.dtype ? { dtypes: flags.dtype } : {}),
    ...(flags.preTokenizer === undefined ? {} : { preTokenizer: flags.preTokenizer }),
    deviceOptions: deviceOptions(flags),
  };
  checkExport(flags.to, { ...options, adapter: flags.adapter });
  const runs = exportForms[flags.to].holds === "model" && flags.adapter !== undefined;
  const idle = ["device", "threads"].filter((name) => given.has(name) && !runs);
  if (idle.length > 0) {
    throw new TuneError(
      "bad-option",
      `${idle.map((name) => `--${name}`).join(" and ")} would do nothing: nothing is computed.`,
      {
        at: "scion export",
        fix: "leave it out; a device is for folding an adapter into the model",
      },
    );
  }
  const { model, adapter } = await loadFlags(flags, output);
  await exportModel(model, flags.to, flags.output, { ...(adapter ? { adapter } : {}), ...options });
  output.say(`Wrote ${flags.output} for ${flags.to}.`);
  const note = flags.to === "transformers.js" ? pipelineNote(model.pretrained.task) : undefined;
  if (note !== undefined) output.say(note);
  output.record({ written: flags.output, form: flags.to });
  return 0;
}
