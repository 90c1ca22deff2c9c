import { printableName } from "../printable.ts";
import { print, printJson, styled } from "./terminal.ts";

/** Where a command speaks: results on standard output, everything for people on standard error. */
export interface Output {
  /** Whether results are JSON. */
  readonly json: boolean;
  /**
   * Something for people, line by line; with `--json` it goes to standard error, so that standard output stays JSON. A line
   * stays one, whatever the names in it hold.
   */
  say(...lines: readonly string[]): void;
  /** Text that is the result itself, without a line break of its own. */
  write(text: string): void;
  /** A result, or an event of a long command: one line of JSON with `--json`, nothing otherwise. */
  record(value: unknown): void;
}

/** Speak to a terminal or a script. */
export function createOutput(json: boolean): Output {
  return {
    json,
    say: (...lines) => {
      print(json ? "stderr" : "stdout", lines.map((line) => `${printableName(line)}\n`).join(""));
    },
    write: (text) => {
      if (!json) print("stdout", text);
    },
    record: (value) => {
      if (json) printJson(value);
    },
  };
}

/** Fainter text, where the terminal shows styles. */
export function faint(text: string): string {
  return styled("faint", text);
}

/** Heavier text, where the terminal shows styles. */
export function strong(text: string): string {
  return styled("strong", text);
}
