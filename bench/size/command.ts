import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** A line that a command printed. */
export interface PrintedLine {
  /** Seconds after the start at which it came. */
  readonly at: number;
  /** Seconds that processors had worked for the command by then; NaN where the system does not tell. */
  readonly worked: number;
  readonly text: string;
}

/** What a command took, in a process of its own. */
export interface Taken {
  /** Its exit code; null when it was stopped at the time limit or by a signal. */
  readonly code: number | null;
  readonly seconds: number;
  readonly peakBytes: number | undefined;
  /** Seconds that processors worked for it, where it is told: what it waited for others does not count. */
  readonly processorSeconds?: number;
  readonly lines: readonly PrintedLine[];
}

/** How a command is run. */
export interface CommandOptions {
  /** It is stopped after this. */
  readonly limitSeconds?: number;
  /** What it reads from its standard input; nothing unless given. */
  readonly input?: string;
  /** Most megabytes of JavaScript's own heap. */
  readonly heapMegabytes?: number;
}

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
/** What is loaded into a process (`node --import`) to have its peak written. */
export const peak: string = new URL("./peak.mjs", import.meta.url).href;

/** Run `scion` as it is built, and measure it. */
export function scion(args: readonly string[], options: CommandOptions = {}): Promise<Taken> {
  const { heapMegabytes } = options;
  const limit = heapMegabytes === undefined ? [] : [`--max-old-space-size=${heapMegabytes}`];
  return measured(process.execPath, [...limit, "--import", peak, main, ...args], options);
}

/** Run any program that writes its peak to the file that SCION_PEAK names. */
export async function measured(
  program: string,
  args: readonly string[],
  { limitSeconds = 3600, input = "" }: CommandOptions = {},
): Promise<Taken> {
  const peakFile = join(tmpdir(), `scion-peak-${randomUUID()}`);
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  const lines: PrintedLine[] = [];
  const child = spawn(program, args, {
    env: { ...process.env, SCION_PEAK: peakFile },
    stdio: ["pipe", "pipe", "pipe"],
  });
  child.stdin.on("error", () => undefined).end(input); // it may be gone before it has read
  for (const stream of [child.stdout, child.stderr]) {
    let rest = "";
    stream.setEncoding("utf8").on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      const now = { at: seconds(), worked: workedFor(child.pid) };
      lines.push(...parts.map((line) => ({ ...now, text: line })));
    });
    stream.on("end", () => rest !== "" && lines.push({ at: seconds(), worked: Number.NaN, text: rest }));
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), 1000 * limitSeconds);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  clearTimeout(timer);
  const took = seconds();
  const told = await readFile(peakFile, "utf8").catch(() => undefined); // absent when it was killed
  await rm(peakFile, { force: true });
  const [peakBytes, processorSeconds] = told?.split(" ").map(Number) ?? [];
  return { code, seconds: took, peakBytes, lines, ...(processorSeconds === undefined ? {} : { processorSeconds }) };
}

/** Seconds that processors have worked for a process: fields 14 and 15 of its line in /proc, in hundredths. */
function workedFor(pid: number | undefined): number {
  try {
    const [, after = ""] = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
    const fields = after.split(" ").map(Number);
    return ((fields[11] ?? Number.NaN) + (fields[12] ?? Number.NaN)) / 100;
  } catch {
    return Number.NaN; // it has ended, or this is no Linux
  }
}
