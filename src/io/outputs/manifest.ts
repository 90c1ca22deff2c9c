import { TuneError } from "../../errors.ts";
import { readJsonObject } from "../json.ts";
import { halfWritten, lockDraft } from "../left-names.ts";
import { joinPath, type Storage } from "../storage.ts";

/*
 * What Scion wrote is known by a file beside it (`.scion.json`), which names every file of a folder with a hash of its
 * content. Only what is named there, and is as it was written, is ever removed or replaced; anything else needs `replace`.
 * What a command reads is never touched.
 */

/** The file that says which files of a folder are Scion's. */
export const manifestFile = ".scion.json";

/** What a manifest says: the folder's kind, and its files by their path inside it; null where they go on changing. */
export interface Manifest {
  readonly kind: string;
  /** By path inside the folder: the hash of a file, or null of one that is written to again; names may hold `*`. */
  readonly files: Readonly<Record<string, string | null>>;
}

/** Files that systems put into folders by themselves: nobody misses them. */
export const systemFiles: ReadonlySet<string> = new Set([".DS_Store", "Thumbs.db", "desktop.ini", "lost+found/"]);
/** Ours while something is written. */
const passing: ReadonlySet<string> = new Set([".scion.lock", ".scion-partial/", ".scion-work/"]);

/** Whether a name is one of ours that comes and goes, or that a killed process left: nobody's content. */
export function isPassing(name: string): boolean {
  return passing.has(name) || halfWritten.test(name) || lockDraft.test(name);
}

/** Every file below a folder, by its path inside it; a folder without any, with a slash. */
export async function filesIn(storage: Storage, folder: string, inside = "", depth = 0): Promise<readonly string[]> {
  const files: string[] = [];
  for (const name of await storage.list(joinPath(folder, inside))) {
    if (inside === "" && systemFiles.has(name)) continue;
    if (isPassing(name) && (inside === "" || !name.endsWith("/"))) continue;
    const path = inside === "" ? name : `${inside}/${name}`;
    if (!name.endsWith("/")) {
      if (!systemFiles.has(name)) files.push(path);
      continue;
    }
    // Links may lead in circles: what lies so deep is nobody's output.
    const below = depth < 8 ? await filesIn(storage, folder, path.slice(0, -1), depth + 1) : [];
    files.push(...(below.length > 0 ? below : [path]));
  }
  return files;
}

/** Whether a name, as a file of a folder has it, leads to something in that folder and nowhere else. */
export function isWithin(name: string): boolean {
  return (
    !/^[A-Za-z]:|[\\\0]/.test(name) &&
    name
      .replace(/\/$/, "")
      .split("/")
      .every((part) => !["", ".", ".."].includes(part))
  );
}

/** The manifest of a folder; undefined where there is none that is Scion's and whole. */
export async function readManifest(storage: Storage, folder: string): Promise<Manifest | undefined> {
  const path = joinPath(folder, manifestFile);
  if ((await storage.sizeBytes(path)) === undefined) return undefined;
  try {
    const { version, kind, files } = await readJsonObject(storage, path);
    const known = typeof files === "object" && files !== null && !Array.isArray(files);
    if (version !== 1 || typeof kind !== "string" || !known) return undefined;
    // Files of these names are removed: a stranger's manifest may not say any that lie elsewhere.
    return Object.keys(files).every(isWithin) ? { kind, files: files as Manifest["files"] } : undefined; // hashes are compared, no more
  } catch (error) {
    if (error instanceof TuneError) return undefined; // damaged, or somebody else's
    throw error;
  }
}

/** Write a folder's manifest. */
export async function writeManifest(storage: Storage, folder: string, { kind, files }: Manifest): Promise<void> {
  await storage.write(joinPath(folder, manifestFile), `${JSON.stringify({ version: 1, kind, files }, null, 1)}\n`);
}
