import { access, constants, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import type { Command } from "commander";
import { TuneError } from "../errors.ts";

/** Options that name what a command writes. */
const written: readonly string[] = ["output", "picture"];

/**
 * Look at where a command is to run and to write, before it reads anything.
 * @throws {TuneError} `bad-option`, `unknown-provider`, `write-failed`.
 */
export async function checkPlaces(command: Command): Promise<void> {
  const flags = command.opts<Readonly<Record<string, unknown>>>();
  if (flags["threads"] === 0) {
    throw new TuneError("bad-option", "No operation can run on 0 threads.", {
      at: "--threads",
      fix: "give 1 or more, or leave it out",
    });
  }
  if (typeof flags["device"] === "string" && command.getOptionValueSource("device") !== "default")
    await checkProvider(flags["device"]);
  for (const name of written) if (typeof flags[name] === "string") await checkWritable(flags[name], `--${name}`);
}

async function checkProvider(provider: string): Promise<void> {
  const { knownProviders } = await import("../runtime/node.ts");
  const known = knownProviders();
  if (known.includes(provider)) return;
  throw new TuneError("unknown-provider", `There is no execution provider "${provider}" here.`, {
    at: "--device",
    fix: `use ${known.join(", ")}`,
  });
}

/** What is there of a path must be a folder that can be written. */
async function checkWritable(path: string, at: string): Promise<void> {
  let folder = dirname(resolve(path));
  while ((await stat(folder).catch(() => undefined)) === undefined && dirname(folder) !== folder)
    folder = dirname(folder);
  const isFolder = (await stat(folder).catch(() => undefined))?.isDirectory() === true;
  if (!isFolder) {
    throw new TuneError("write-failed", `${folder} is not a folder, so ${path} cannot be made.`, {
      at,
      fix: "choose another place",
    });
  }
  try {
    await access(folder, constants.W_OK);
  } catch (error) {
    const { writeError } = await import("../runtime/node.ts");
    throw writeError(path, error);
  }
}
