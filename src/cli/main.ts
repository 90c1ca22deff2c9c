#!/usr/bin/env node
import { exitCodes, reportFailure } from "./failure.ts";
import { endOnSignals, leave, left } from "./interrupt.ts";
import { ending } from "./leaving.ts";
import { runProgram } from "./program.ts";

// Whoever reads what is printed may stop reading (`scion --help | head`): nothing is wrong then. A run goes on, and saves,
// when its terminal is gone.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (ending.saves || ending.leaving) return;
  if (error.code !== "EPIPE") throw error;
  void leave(exitCodes.done);
});
process.stderr.on("error", () => undefined); // there is nobody left to tell

const args = process.argv.slice(2);

// What nobody waits for, such as an event that goes wrong, is told like everything else.
process.on("uncaughtException", (error) => {
  if (!ending.leaving) void leave(reportFailure(error, args.includes("--json")));
});

endOnSignals();
const code = await runProgram(args);
if (left()) {
  await left();
  process.exit(); // with the code that was chosen there
}
process.exitCode = code;
