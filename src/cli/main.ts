#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { commands } from "./index.ts";
import { ending } from "./leaving.ts";
import { createOutput } from "./output.ts";
import { print } from "./terminal.ts";

// Whoever reads what is printed may stop reading (`scion --help | head`): nothing is wrong then. A run goes on, and saves,
// when its terminal is gone.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (ending.saves || ending.leaving) return;
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
process.stderr.on("error", () => undefined); // there is nobody left to tell

process.exitCode = await main(process.argv.slice(2));

/** Run the command line; the result is the exit code. */
async function main(args: readonly string[]): Promise<number> {
  const json = args.includes("--json");
  const chosen = args.find((arg) => !arg.startsWith("-")) ?? "";
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  }; // ours
  const program = new Command("scion")
    .description("Adapt pretrained models on stock ONNX Runtime: tune, try, measure, export.")
    .version(version)
    .addHelpText(
      "after",
      `
Examples:
  $ scion tune --model HuggingFaceTB/SmolLM2-135M --data train.jsonl
  $ scion chat --model HuggingFaceTB/SmolLM2-135M --adapter runs/tune/adapter
  $ scion export --model HuggingFaceTB/SmolLM2-135M --adapter runs/tune/adapter --to transformers.js --output web

Every command takes --json and --help. Exit codes: 0 done, 1 a bug, 2 bad input, 3 training failed, 130 interrupted.`,
    )
    .configureOutput({ writeOut: (text) => print("stdout", text), writeErr: (text) => print("stderr", text) })
    .exitOverride();
  let code = 0;
  let chosenCommand: Command | undefined;
  for (const [name, { summary, load }] of Object.entries(commands)) {
    const command = program
      .command(name)
      .summary(summary)
      .option("--json", "results as JSON on standard output")
      .exitOverride();
    if (name !== chosen) continue;
    const { define, run } = await load();
    await define(command);
    chosenCommand = command;
    command.action(async (...given: unknown[]) => {
      const positional = given.slice(0, -2).map(String);
      code = await run(command.opts() as never, createOutput(json), positional); // the flags that `define` declared
    });
  }
  try {
    const file = chosenCommand?.options.some(({ long }) => long === "--config") ? configPath(args) : undefined;
    if (chosenCommand && file !== undefined) {
      const { applyConfig } = await import("./config.ts");
      await applyConfig(chosenCommand, file);
    }
    await program.parseAsync([...args], { from: "user" });
    return code;
  } catch (error) {
    if (ending.leaving) return 130;
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2; // it has said why, or shown help
    const { reportFailure } = await import("./failure.ts");
    return reportFailure(error, json);
  }
}

/** The file that `--config file` or `--config=file` names. */
function configPath(args: readonly string[]): string | undefined {
  const at = args.findIndex((arg) => arg === "--config" || arg.startsWith("--config="));
  return at < 0 ? undefined : args[at] === "--config" ? args[at + 1] : args[at]?.slice("--config=".length);
}
