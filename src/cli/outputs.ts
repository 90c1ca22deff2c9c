import type { Command } from "commander";
import { guardOutputs, type Platform, TuneError } from "../index.ts";
import { nodePlatform } from "../runtime/node.ts";

/** Options of commands that write files. */
export interface OutputFlags {
  readonly replace?: boolean;
}

/** Add them to a command; a law (tests/outputs.test.ts) asks them of every command that writes. */
export function withReplace(command: Command, what = "replace what is there, even if Scion did not write it"): Command {
  return command.option("--replace", `${what}; never what is read`);
}

/** What `--replace` does for commands that go on with what is there. */
export const startsOver =
  "start over where an earlier one is, and replace what has its files' names, even if Scion did not write it";

/**
 * Check that what may be replaced is written.
 * @throws {TuneError} `bad-option` for `--replace` without the flag that names what it replaces.
 */
export function refuseIdleReplace({ replace }: OutputFlags, written: unknown, flag: string): void {
  if (replace !== true || written !== undefined) return;
  throw new TuneError("bad-option", `--replace would do nothing: nothing is written without ${flag}.`, {
    at: "--replace",
    fix: `leave it out, or give ${flag}`,
  });
}

/** Flags that name what is read: nothing is written over it. Another one is refused by the same law. */
export const inputFlags: readonly string[] = [
  ...[
    "model",
    "adapter",
    "base",
    "tuned",
    "baseModel",
    "config",
    "chatTemplate",
    "ledger",
    "federation",
    "invite",
    "certificate",
    "key",
  ],
  ...["data", "then", "validationData", "testData", "baseText", "calibration", "evaluation"],
];

/** The platform of a command: what its flags name as inputs stays as it is, and `--replace` says what may be replaced. */
export function platformOf(flags: object): Platform {
  const given = flags as Readonly<Record<string, unknown>>; // read by the names above
  const named = inputFlags.flatMap((name) => given[name] ?? []).map(String);
  // An adapter may have a name before it, and data a weight behind it.
  const plain = named.flatMap((text) => [text.replace(/^[\w-]+=/, ""), text.replace(/:\d+(\.\d+)?$/, "")]);
  const storage = guardOutputs(nodePlatform.storage, {
    inputs: [...new Set([...named, ...plain])],
    replace: given["replace"] === true,
  });
  return { ...nodePlatform, storage };
}
