import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { TuneError } from "../errors.ts";
import { checkPlaces } from "./checks.ts";
import { exitCodes, reportFailure } from "./failure.ts";
import { commands } from "./index.ts";
import { ending } from "./leaving.ts";
import { createOutput } from "./output.ts";
import { givenFlags, refuseUnknown } from "./parsing.ts";

/** What other tools call a command. */
export const commandHabits: Readonly<Record<string, string>> = {
  train: "tune",
  finetune: "tune",
  "fine-tune": "tune",
  sft: "tune",
  dpo: "tune",
  fit: "tune",
  lora: "tune",
  sweep: "compare",
  estimate: "plan",
  quantise: "quantize",
  pack: "quantize",
  "lr-find": "lr",
  run: "generate",
  infer: "generate",
  complete: "generate",
  evaluate: "eval",
  test: "eval",
  perplexity: "eval",
  fuse: "merge",
  convert: "export",
  info: "inspect",
  show: "inspect",
  list: "runs",
};

/** Run the command line; the result is the exit code. What goes wrong is told, as JSON with `--json`. */
export async function runProgram(args: readonly string[]): Promise<number> {
  const json = args.includes("--json");
  try {
    return await parseAndRun(args, json);
  } catch (error) {
    if (ending.leaving) return exitCodes.interrupted;
    if (error instanceof CommanderError && error.exitCode === 0) return 0; // help, or the version
    return reportFailure(
      error instanceof CommanderError ? new TuneError("bad-option", error.message, { cause: error }) : error,
      json,
    );
  }
}

async function parseAndRun(args: readonly string[], json: boolean): Promise<number> {
  const first = args.findIndex((arg) => !arg.startsWith("-"));
  const two = args.slice(first, first + 2).join(" ");
  const chosen = Object.hasOwn(commands, two) ? two : (args[first] ?? "");
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  }; // ours
  const program = new Command("scion")
    .description("Adapt pretrained models on stock ONNX Runtime: tune, try, measure, export.")
    .version(version)
    .option("--json", "results and errors as JSON, of every command")
    .addHelpText(
      "after",
      `
Examples:
  $ scion tune --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion chat --model HuggingFaceTB/SmolLM2-135M --adapter runs/tune/adapter
  $ scion export --model HuggingFaceTB/SmolLM2-135M --adapter runs/tune/adapter --to transformers.js --output web

Every command takes --json and --help. Exit codes: 0 done, 1 a bug, 2 bad input, 3 training failed, 130 interrupted.`,
    );
  refuseUnknown(program, { commands: Object.keys(commands), habits: commandHabits });
  let code = 0;
  let chosenCommand: Command | undefined;
  const groups = new Map<string, Command>();
  for (const [name, { summary, load }] of Object.entries(commands)) {
    const [word = "", own] = name.split(" ");
    const command = (own === undefined ? program : groupOf(program, word, groups))
      .command(own ?? word)
      .summary(summary)
      .option("--json", "results as JSON on standard output");
    refuseUnknown(command);
    if (name !== chosen) continue;
    const { define, run } = await load();
    await define(command);
    chosenCommand = command;
    command.action(async (...given: unknown[]) => {
      const positional = given.slice(0, -2).map(String);
      await checkPlaces(command);
      code = await run(command.opts() as never, createOutput(json), positional, givenFlags(command)); // the flags that `define` declared
    });
  }
  const file = chosenCommand?.options.some(({ long }) => long === "--config") ? configPath(args) : undefined;
  if (chosenCommand && file !== undefined) {
    const { applyConfig } = await import("./config.ts");
    await applyConfig(chosenCommand, file);
  }
  await program.parseAsync([...args], { from: "user" });
  return code;
}

/** The commands that begin with a word, such as `federate simulate`. */
function groupOf(program: Command, word: string, groups: Map<string, Command>): Command {
  const known = groups.get(word);
  if (known) return known;
  const own = Object.keys(commands).flatMap((name) =>
    name.startsWith(`${word} `) ? [name.slice(word.length + 1)] : [],
  );
  const group = program.command(word).summary(groupSummaries[word] ?? own.join(", "));
  refuseUnknown(group, { commands: own, habits: {} });
  groups.set(word, group);
  return group;
}

/** What the commands that begin with a word are for. */
const groupSummaries: Readonly<Record<string, string>> = {
  federate: "tune one adapter by many clients, each on data of its own",
};

/** The file that `--config file` or `--config=file` names. */
function configPath(args: readonly string[]): string | undefined {
  const at = args.findIndex((arg) => arg === "--config" || arg.startsWith("--config="));
  return at < 0 ? undefined : args[at] === "--config" ? args[at + 1] : args[at]?.slice("--config=".length);
}
