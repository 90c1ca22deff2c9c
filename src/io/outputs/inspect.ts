import { TuneError } from "../../errors.ts";
import { hashFile } from "../content-hash.ts";
import { joinPath, type Storage } from "../storage.ts";
import { apart, isInside, readPaths, refuseInput } from "./guard.ts";
import { filesIn, isPassing, manifestFile, readManifest, systemFiles } from "./manifest.ts";

/** What stands in a folder, as far as it matters to who writes there. */
export type Found =
  | { readonly state: "absent" }
  /** Every file is Scion's, as it was written; their stamps tell whether that is still so. */
  | { readonly state: "own"; readonly stamps: ReadonlyMap<string, string | undefined> }
  | { readonly state: "others"; readonly why: string };

/**
 * Check that a folder of a kind can be written, before anything is computed: it is not there, is empty, or holds what Scion
 * wrote of that kind and nothing else.
 * @throws {TuneError} `output-is-input`, `output-is-file`, `output-exists` naming what is in the way.
 */
export async function checkFolder(storage: Storage, folder: string, kind: string): Promise<void> {
  const target = await storage.resolve(folder);
  await inspectFolder(storage, target, kind, folder);
}

/** What stands at a target, refused where it may not be replaced. */
export async function inspectFolder(storage: Storage, target: string, kind: string, named: string): Promise<Found> {
  await refuseFile(storage, target, named);
  const inputs = await readPaths(storage, storage.guard?.inputs ?? []);
  refuseInput(target, inputs, named);
  const found = await findIn(storage, target, kind);
  if (found.state !== "others") return found;
  const around = inputs.find((input) => isInside(target, input));
  if (around !== undefined && storage.guard?.replace) {
    throw new TuneError("output-is-input", `${named} is a part of ${around}, which is read here.`, {
      at: named,
      fix: apart,
    });
  }
  if (!storage.guard?.replace) throw others(named, found.why);
  return found;
}

/** The error for what may not be replaced. */
export function others(named: string, why: string): TuneError {
  return new TuneError("output-exists", `${named} ${why}: it stays as it is.`, {
    at: named,
    fix: "choose another folder, or say that it may be replaced (--replace, or replace: true in code)",
  });
}

/** @throws {TuneError} `output-is-file` where a folder is asked for and a file stands. */
export async function refuseFile(storage: Storage, target: string, named: string): Promise<void> {
  if ((await storage.sizeBytes(target)) === undefined) return;
  throw new TuneError("output-is-file", `${named} is a file, and a folder is to be written there.`, {
    at: named,
    fix: "choose another name for the output folder",
  });
}

async function findIn(storage: Storage, target: string, kind: string): Promise<Found> {
  const entries = (await storage.list(target)).filter((name) => !systemFiles.has(name) && !isPassing(name));
  if (entries.length === 0) return { state: "absent" };
  const manifest = await readManifest(storage, target);
  if (manifest === undefined) {
    return { state: "others", why: unmarked(entries) };
  }
  if (manifest.kind !== kind) return { state: "others", why: `holds another output of Scion's (${manifest.kind})` };
  const stamps = new Map<string, string | undefined>();
  const strangers: string[] = [];
  for (const file of await filesIn(storage, target)) {
    const path = joinPath(target, file);
    const stamp = await storage.stamp(path);
    const hash = manifest.files[file];
    const own =
      file === manifestFile || (hash !== undefined && (hash === null || (await hashFile(storage, path)) === hash));
    if (own) stamps.set(file, stamp);
    else strangers.push(hash === undefined ? file : `${file} (changed since)`);
  }
  if (strangers.length === 0) return { state: "own", stamps };
  return { state: "others", why: `holds ${few(strangers)}, which Scion did not write` };
}

/** Why what no manifest names stays: an older version of Scion, another tool or a person may have made it. */
export function unmarked(entries: readonly string[]): string {
  return `holds ${few(entries)}, and nothing says that Scion wrote ${entries.length === 1 ? "it" : "them"}`;
}

/** The first of some names. */
export function few(names: readonly string[]): string {
  const shown = names.slice(0, 3).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}
