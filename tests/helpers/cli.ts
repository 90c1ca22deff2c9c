import { type ChildProcess, spawn } from "node:child_process";
import { Command } from "commander";
import { commands } from "../../src/cli/index.ts";
import { givenFlags } from "../../src/cli/parsing.ts";
import { root } from "./root.ts";

export { root };

/** `scion` as it is built before the tests: what a process of Node is given. */
export const program = "dist/cli/main.js";

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

/** Start `scion` in a process of its own. */
export function startScion(...args: readonly string[]): Started {
  return start(args, {});
}

function start(args: readonly string[], env: Readonly<Record<string, string>>): Started {
  const [name = "", ...rest] = args; // a command may have two words
  const child = spawn(process.execPath, [program, ...(name in commands ? name.split(" ") : [name]), ...rest], {
    cwd: root,
    env: { ...process.env, ...env },
  });
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

/** A command that was run in this process. */
export interface Ran {
  readonly code: number;
  /** What it would write with `--json`. */
  readonly records: readonly Record<string, unknown>[];
  /** What it says to people. */
  readonly said: string;
}

/** Run a command of `scion` in this process, which takes no time to start. @throws what it throws. */
export async function runHere(name: string, ...args: readonly string[]): Promise<Ran> {
  const entry = commands[name];
  if (entry === undefined) throw new Error(`there is no command ${name}`);
  const { define, run } = await entry.load();
  const command = new Command(name).exitOverride().configureOutput({ writeErr: () => undefined });
  await define(command);
  command.parse([...args], { from: "user" });
  const records: Record<string, unknown>[] = [];
  const said: string[] = [];
  const output = {
    ...{ json: true, write: () => undefined },
    say: (...lines: readonly string[]) => void said.push(lines.join("\n")),
    record: (value: unknown) => void records.push(JSON.parse(JSON.stringify(value)) as Record<string, unknown>),
  };
  const code = await run(command.opts() as never, output, command.args, givenFlags(command)); // the flags that `define` declared
  return { code, records, said: said.join("\n") };
}
