import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

/** The repository. */
export const root: string = fileURLToPath(new URL("../..", import.meta.url));

/** A command that ended. */
export interface Ended {
  /** Exit code; null when a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

/** Start `scion` from its sources, in a process of its own. */
export function startScion(...args: readonly string[]): Started {
  return start(args, {});
}

function start(args: readonly string[], env: Readonly<Record<string, string>>): Started {
  const command = ["--import", "tsx", "src/cli/main.ts", ...args];
  const child = spawn(process.execPath, command, { cwd: root, env: { ...process.env, ...env } });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  const ended = new Promise<Ended>((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
  return { child, ended };
}

/** Run `scion` to its end, with `input` on its standard input. */
export async function scion(
  args: readonly string[],
  input = "",
  env: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  const { child, ended } = start(args, env);
  child.stdin?.end(input);
  return ended;
}

/** The lines of JSON that a command wrote. */
export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>); // our own output
}
