import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** What a command took, in a process of its own. */
export interface Taken {
  /** Its exit code; null when it was stopped at the time limit or by a signal. */
  readonly code: number | null;
  readonly seconds: number;
  readonly peakBytes: number | undefined;
  /** The lines that it printed, each with the seconds after the start at which it came. */
  readonly lines: readonly { readonly at: number; readonly text: string }[];
}

/** How a command is run. */
export interface CommandOptions {
  /** It is stopped after this. */
  readonly limitSeconds?: number;
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
  { limitSeconds = 3600 }: CommandOptions = {},
): Promise<Taken> {
  const peakFile = join(tmpdir(), `scion-peak-${randomUUID()}`);
  const started = performance.now();
  const seconds = (): number => (performance.now() - started) / 1000;
  const lines: { at: number; text: string }[] = [];
  const child = spawn(program, args, {
    env: { ...process.env, SCION_PEAK: peakFile },
    stdio: ["ignore", "pipe", "pipe"],
  });
  for (const stream of [child.stdout, child.stderr]) {
    let rest = "";
    stream.setEncoding("utf8").on("data", (text: string) => {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      lines.push(...parts.map((line) => ({ at: seconds(), text: line })));
    });
    stream.on("end", () => rest !== "" && lines.push({ at: seconds(), text: rest }));
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), 1000 * limitSeconds);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  clearTimeout(timer);
  const bytes = await readFile(peakFile, "utf8").catch(() => undefined); // absent when it was killed
  await rm(peakFile, { force: true });
  return { code, seconds: seconds(), peakBytes: bytes === undefined ? undefined : Number(bytes), lines };
}
