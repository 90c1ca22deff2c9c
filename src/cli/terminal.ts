import { randomUUID } from "node:crypto";
import { styleText } from "node:util";
import { printable, printableJson, printableName } from "../printable.ts";

/*
 * The one place that writes to standard output and standard error. Names, samples and answers come from files of
 * strangers: no control character of theirs reaches a terminal.
 */

/** Standard output or standard error. */
export type Stream = "stdout" | "stderr";

/** What may be said of a text besides what it says. */
const styles = { faint: "dim", strong: "bold" } as const;

/** Stands around styled text until it is written; no file can know it. */
const mark = `scion:${randomUUID()}:`;
const marked = new RegExp(`${mark}(${Object.keys(styles).join("|")}):([^]*?)${mark}end`, "g");

/** Text in a style, where standard output is a terminal that shows styles. */
export function styled(style: keyof typeof styles, text: string): string {
  const shows = process.stdout.isTTY === true && process.env["NO_COLOR"] === undefined;
  return shows ? `${mark}${style}:${text}${mark}end` : text;
}

/** Write text for people. */
export function print(stream: Stream, text: string): void {
  const styledText = printable(text).replace(marked, (_, style: keyof typeof styles, inner: string) =>
    styleText(styles[style], inner),
  );
  process[stream].write(styledText);
}

/** Write a value as a line of JSON. */
export function printJson(value: unknown): void {
  process.stdout.write(`${printableJson(value)}\n`);
}

/** A stream that a line of progress is written to and wiped from. */
export interface ProgressTarget {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** Standard error, as the place of a line of progress. */
export function progressTarget(): ProgressTarget {
  return process.stderr;
}

/** A line that takes the place of the last one on a terminal. */
export function rewrite(target: ProgressTarget, text: string): void {
  target.write(`\r\x1b[2K${printableName(text)}`);
}
