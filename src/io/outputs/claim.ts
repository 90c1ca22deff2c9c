import { joinPath, type Storage } from "../storage.ts";
import { readPaths, refuseInput } from "./guard.ts";
import { few, others, refuseFile } from "./inspect.ts";
import { manifestFile, passing, readManifest, systemFiles, writeManifest } from "./manifest.ts";

/**
 * Claim a folder that a command goes on writing to: a run's, a comparison's. `names` are its files (`*` stands for any part
 * of a name) and folders (ending in `/`): they are Scion's from now on. What else is in the folder is left alone.
 * @throws {TuneError} `output-is-file`; `output-is-input` when what is read is among them; `output-exists` when the folder
 * holds files and was not claimed so before, unless the storage's guard says that they may be replaced.
 */
export async function claimFolder(
  storage: Storage,
  folder: string,
  { kind, names, fresh = false }: FolderClaim,
): Promise<void> {
  const target = await storage.resolve(folder);
  const { inWay, own } = await checkClaim(storage, folder, { kind, names, fresh });
  if (own && inWay.length === 0) return;
  for (const name of inWay) await storage.remove(joinPath(target, name.replace(/\/$/, "")));
  await writeManifest(storage, target, { kind, files: Object.fromEntries(names.map((name) => [name, null])) });
}

/** What a command goes on writing to. */
export interface FolderClaim {
  readonly kind: string;
  readonly names: readonly string[];
  /** Remove what an earlier one left of these, where the storage's guard allows it. */
  readonly fresh?: boolean;
}

/**
 * What {@link claimFolder} would find, with nothing changed.
 * @throws {TuneError} as there.
 */
export async function checkClaim(
  storage: Storage,
  folder: string,
  { kind, names, fresh = false }: FolderClaim,
): Promise<{ readonly own: boolean; readonly inWay: readonly string[] }> {
  const target = await storage.resolve(folder);
  await refuseFile(storage, target, folder);
  const manifest = await readManifest(storage, target);
  const entries = (await storage.list(target)).filter(
    (name) => !systemFiles.has(name) && !passing.has(name) && !name.endsWith(".lock") && name !== manifestFile,
  );
  const matching = (list: readonly string[]): readonly string[] =>
    entries.filter((name) => list.some((pattern) => matches(name, pattern)));
  const inputs = await readPaths(storage, storage.guard?.inputs ?? []);
  for (const name of matching(names))
    refuseInput(joinPath(target, name.replace(/\/$/, "")), inputs, joinPath(folder, name));
  const replace = storage.guard?.replace === true;
  const own = manifest?.kind === kind;
  if (entries.length === 0) return { own, inWay: [] };
  if (own) {
    const claimed = matching(Object.keys(manifest.files));
    const inWay = matching(names).filter((name) => !claimed.includes(name));
    if (inWay.length > 0 && !replace) throw others(folder, `holds ${few(inWay)}, which Scion did not write`);
    return { own, inWay: fresh && replace ? matching(names) : inWay };
  }
  if (inputs.includes(target)) refuseInput(target, inputs, folder);
  if (!replace) {
    throw manifest
      ? others(folder, `holds another output of Scion's (${manifest.kind})`)
      : others(folder, `holds ${few(entries)}, which ${entries.length === 1 ? "was" : "were"} not written by this`);
  }
  return { own, inWay: matching(names) };
}

function matches(name: string, pattern: string): boolean {
  const [start = "", ...rest] = pattern.split("*");
  if (rest.length === 0) return name === pattern;
  const end = rest.at(-1) ?? "";
  return name.length >= start.length + end.length && name.startsWith(start) && name.endsWith(end);
}
