import { TuneError } from "../errors.ts";
import { print, printJson } from "./terminal.ts";

/** What the exit code tells a script. */
export const exitCodes = {
  /** The command did what was asked. */
  done: 0,
  /** A bug: something that nobody foresaw. */
  unexpected: 1,
  /** A mistake in the options, the model or the data. */
  badInput: 2,
  /** Training went wrong: its loss is not finite. */
  training: 3,
  /** Stopped by Ctrl-C, after saving. */
  interrupted: 130,
} as const;

/** Tell of an error, and the exit code it has. */
export function reportFailure(error: unknown, json: boolean): number {
  const known = error instanceof TuneError;
  const code = known ? error.code : "unexpected";
  const message = error instanceof Error ? error.message : String(error);
  if (json) {
    const { at, fix } = known ? error : {};
    printJson({ error: { code, message, at, fix } });
  } else {
    print("stderr", `${known ? message : ((error instanceof Error ? error.stack : undefined) ?? message)}\n`);
    print("stderr", known ? `  (${code})\n` : "This is a bug in Scion: please report it with the lines above.\n");
  }
  if (!known) return exitCodes.unexpected;
  if (error.code === "interrupted") return exitCodes.interrupted;
  return error.code === "not-finite-loss" ? exitCodes.training : exitCodes.badInput;
}
