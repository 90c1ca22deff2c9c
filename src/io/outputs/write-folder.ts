import { TuneError } from "../../errors.ts";
import { contentHash, hashFile } from "../content-hash.ts";
import { joinPath, type Storage } from "../storage.ts";
import { type Found, inspectFolder, refuseFile } from "./inspect.ts";
import { filesIn, isPassing, manifestFile, readManifest, systemFiles, writeManifest } from "./manifest.ts";
import { asideName, clearAside, finishMoves, moveIn, recover } from "./put-back.ts";

/**
 * Write a folder that is never half there: `fill` writes into a staging folder, which then takes the place of what was at
 * `folder`. That is replaced where it is an earlier output of the same kind as Scion wrote it, or where the storage's guard
 * says that it may be; a folder that must stay where it is gets the new files one by one.
 * @throws {TuneError} `in-use` when another process writes the same folder; as {@link checkFolder}; what the storage throws.
 */
export async function writeFolder(
  storage: Storage,
  folder: string,
  kind: string,
  fill: (staging: string) => Promise<void>,
): Promise<void> {
  const target = await storage.resolve(folder);
  await refuseFile(storage, target, folder);
  const fixed = await storage.fixed(target);
  const lock = await storage.lock(fixed ? joinPath(target, ".scion") : target);
  try {
    await finishMoves(storage, target);
    await recover(storage, target);
    const found = await inspectFolder(storage, target, kind, folder);
    const staging = fixed ? joinPath(target, ".scion-partial") : await freeName(storage, `${target}.scion-partial`);
    try {
      await storage.remove(staging);
      await writeManifest(storage, staging, { kind: "unfinished", files: {} });
      await fill(staging);
      await finishManifest(storage, staging, kind);
      const now = await unchanged(storage, target, { found, kind, named: folder });
      await (fixed
        ? moveIn(storage, target, await leaving(storage, target, now))
        : swap(storage, { staging, target }, now));
    } catch (error) {
      await storage.remove(staging).catch(() => undefined); // the first error says more than one about clearing up
      throw error;
    }
  } finally {
    await lock.release();
  }
}

async function finishManifest(storage: Storage, staging: string, kind: string): Promise<void> {
  const files: Record<string, string> = {};
  for (const file of await filesIn(storage, staging)) {
    if (file !== manifestFile) files[file] = await hashFile(storage, joinPath(staging, file));
  }
  await writeManifest(storage, staging, { kind, files });
}

/** Writing takes time: what came into the target meanwhile is looked at again. */
async function unchanged(
  storage: Storage,
  target: string,
  { found, kind, named }: { readonly found: Found; readonly kind: string; readonly named: string },
): Promise<Found> {
  if (found.state === "own") {
    const files = await filesIn(storage, target);
    const same = files.length === found.stamps.size;
    const stamps = await Promise.all(
      files.map(async (file) => (await storage.stamp(joinPath(target, file))) === found.stamps.get(file)),
    );
    if (same && stamps.every(Boolean)) return found;
  }
  return inspectFolder(storage, target, kind, named);
}

/** A name that is free, or held by what a killed writer left. */
async function freeName(storage: Storage, wanted: string): Promise<string> {
  for (let i = 1; ; i++) {
    const name = i === 1 ? wanted : `${wanted}-${i}`;
    if ((await storage.sizeBytes(name)) !== undefined) continue;
    const entries = await storage.list(name);
    if (entries.every(isPassing) || (await readManifest(storage, name)) !== undefined) return name;
  }
}

/** What goes of a folder that is replaced file by file. */
async function leaving(storage: Storage, target: string, found: Found): Promise<readonly string[]> {
  if (found.state === "absent") return [];
  if (found.state === "own") return [...found.stamps.keys()];
  return (await storage.list(target)).filter((name) => !systemFiles.has(name) && !isPassing(name));
}

/** Put the staged folder in the target's place. What was there stands aside meanwhile, and goes back when it fails. */
async function swap(
  storage: Storage,
  { staging, target }: { readonly staging: string; readonly target: string },
  found: Found,
): Promise<void> {
  if (found.state === "absent") {
    for (const name of await storage.list(target)) await storage.remove(joinPath(target, name)); // system files
    await storage.rename(staging, target);
    return;
  }
  const aside = await freeName(storage, asideName(target));
  await storage.remove(aside);
  const files = found.state === "own" ? [...found.stamps.keys()] : ["*"];
  await writeManifest(storage, aside, {
    kind: "replaced",
    files: Object.fromEntries(files.map((file) => [file, null])),
  });
  const old = joinPath(aside, "old");
  try {
    await storage.rename(target, old);
  } catch (error) {
    await forget(storage, aside);
    if (!(error instanceof TuneError)) throw error;
    // A folder that cannot be moved, such as one of a lower layer of a container's disk.
    const lock = await storage.lock(joinPath(target, ".scion"));
    try {
      await storage.remove(joinPath(target, ".scion-partial"));
      await storage.rename(staging, joinPath(target, ".scion-partial"));
      await moveIn(storage, target, await leaving(storage, target, found));
    } finally {
      await lock.release();
    }
    return;
  }
  try {
    await storage.rename(staging, target);
  } catch (error) {
    await storage.rename(old, target);
    await forget(storage, aside);
    throw error;
  }
  await clearAside(storage, aside);
}

/** Remove a folder in which nothing was put aside. */
async function forget(storage: Storage, aside: string): Promise<void> {
  await storage.remove(joinPath(aside, manifestFile));
  await storage.prune(aside);
}

/** Add a file to a folder that {@link writeFolder} wrote, as one of its own. */
export async function addFile(storage: Storage, folder: string, name: string, content: string): Promise<void> {
  const manifest = await readManifest(storage, folder);
  // Said first: a file that is not there is nobody's, and one that is there and not said would be a stranger.
  if (manifest)
    await writeManifest(storage, folder, { ...manifest, files: { ...manifest.files, [name]: contentHash(content) } });
  await storage.write(joinPath(folder, name), content);
}
