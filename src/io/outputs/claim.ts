import { joinPath, type Storage } from "../storage.ts";
import { readPaths, refuseInput } from "./guard.ts";
import { few, others, refuseFile, unmarked } from "./inspect.ts";
import { isPassing, manifestFile, readManifest, systemFiles, writeManifest } from "./manifest.ts";

/** What a command goes on writing to: a run's folder, a comparison's. */
export interface FolderClaim {
  readonly kind: string;
  /** Its files (`*` stands for any part of a name) and folders (ending in `/`). */
  readonly names: readonly string[];
  /** Remove what an earlier one left of these, where the storage's guard allows it. */
  readonly fresh?: boolean;
}

/** What may be there before a folder is claimed: streamed data is read first, and its cache knows its own file. */
const beforeClaim: ReadonlySet<string> = new Set([manifestFile, "examples.cache"]);

/**
 * Claim a folder that a command goes on writing to: the names are Scion's from now on. What else is in the folder is left
 * alone.
 * @throws {TuneError} `output-is-file`; `output-is-input` when what is read is among them; `output-exists` when the folder
 * holds files and was not claimed so before, unless the storage's guard says that they may be replaced.
 */
export async function claimFolder(storage: Storage, folder: string, claim: FolderClaim): Promise<void> {
  const target = await storage.resolve(folder);
  const { kind, names } = claim;
  const { own, inWay, claimed } = await checkClaim(storage, folder, claim);
  for (const name of inWay) await storage.remove(joinPath(target, name.replace(/\/$/, "")));
  if (own && names.every((name) => claimed.includes(name))) return;
  const all = [...new Set([...claimed, ...names])];
  await writeManifest(storage, target, { kind, files: Object.fromEntries(all.map((name) => [name, null])) });
}

/** What stands in a folder that is to be claimed. */
export interface ClaimFound {
  /** Whether it was claimed so before, and which names. */
  readonly own: boolean;
  readonly claimed: readonly string[];
  /** What goes, as the guard allows. */
  readonly inWay: readonly string[];
}

/**
 * What {@link claimFolder} would find, with nothing changed.
 * @throws {TuneError} as there.
 */
export async function checkClaim(
  storage: Storage,
  folder: string,
  { kind, names, fresh = false }: FolderClaim,
): Promise<ClaimFound> {
  const target = await storage.resolve(folder);
  await refuseFile(storage, target, folder);
  const manifest = await readManifest(storage, target);
  const entries = await claimable(storage, target);
  const matching = (list: readonly string[]): readonly string[] =>
    entries.filter((name) => list.some((pattern) => matches(name, pattern)));
  const inputs = await readPaths(storage, storage.guard?.inputs ?? []);
  for (const name of matching(names))
    refuseInput(joinPath(target, name.replace(/\/$/, "")), inputs, joinPath(folder, name));
  const replace = storage.guard?.replace === true;
  const own = manifest?.kind === kind;
  const claimed = own ? Object.keys(manifest.files) : [];
  if (entries.length === 0) return { own, claimed, inWay: [] };
  if (own) {
    const ours = matching(claimed);
    const inWay = matching(names).filter((name) => !ours.includes(name));
    if (inWay.length > 0 && !replace) throw others(folder, `holds ${few(inWay)}, which Scion did not write`);
    return { own, claimed, inWay: fresh && replace ? matching([...claimed, ...names]) : inWay };
  }
  if (replace || inputs.includes(target)) refuseInput(target, inputs, folder);
  if (!replace)
    throw others(folder, manifest ? `holds another output of Scion's (${manifest.kind})` : unmarked(entries));
  return { own, claimed, inWay: matching(names) };
}

/** What counts of a folder: neither what comes and goes, nor a folder with nothing else in it. */
async function claimable(storage: Storage, folder: string): Promise<readonly string[]> {
  const names: string[] = [];
  for (const name of await storage.list(folder)) {
    if (systemFiles.has(name) || isPassing(name) || beforeClaim.has(name) || name.endsWith(".lock")) continue;
    const inside = name.endsWith("/") ? await storage.list(joinPath(folder, name.slice(0, -1))) : [];
    const passes = inside.length > 0 && inside.every((below) => beforeClaim.has(below) || below.endsWith(".lock"));
    if (!passes) names.push(name);
  }
  return names;
}

function matches(name: string, pattern: string): boolean {
  const [start = "", ...rest] = pattern.split("*");
  if (rest.length === 0) return name === pattern;
  const end = rest.at(-1) ?? "";
  return name.length >= start.length + end.length && name.startsWith(start) && name.endsWith(end);
}

/** Remove what was claimed of a folder, and the folder where nothing else is in it. */
export async function removeClaimed(storage: Storage, folder: string, kind: string): Promise<void> {
  const manifest = await readManifest(storage, folder);
  if (manifest?.kind !== kind) return;
  const names = Object.keys(manifest.files);
  for (const entry of await storage.list(folder)) {
    if (names.some((pattern) => matches(entry, pattern)))
      await storage.remove(joinPath(folder, entry.replace(/\/$/, "")));
  }
  await storage.remove(joinPath(folder, manifestFile));
  await storage.prune(folder);
}
