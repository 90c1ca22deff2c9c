#!/usr/bin/env node
import { exitCodes, reportFailure } from "./failure.ts";
import { ending } from "./leaving.ts";
import { runProgram } from "./program.ts";

// Whoever reads what is printed may stop reading (`scion --help | head`): nothing is wrong then. A run goes on, and saves,
// when its terminal is gone.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (ending.saves || ending.leaving) return;
  if (error.code !== "EPIPE") throw error;
  process.exit(0);
});
process.stderr.on("error", () => undefined); // there is nobody left to tell

const args = process.argv.slice(2);

// What nobody waits for, such as an event that goes wrong, is told like everything else.
process.on("uncaughtException", (error) =>
  process.exit(ending.leaving ? exitCodes.interrupted : reportFailure(error, args.includes("--json"))),
);

process.exitCode = await runProgram(args);
