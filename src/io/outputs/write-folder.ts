import { contentHash, hashFile } from "../content-hash.ts";
import { readJsonObject } from "../json.ts";
import { joinPath, type Storage } from "../storage.ts";
import { type Found, inspectFolder, refuseFile } from "./inspect.ts";
import { filesIn, manifestFile, passing, readManifest, systemFiles, writeManifest } from "./manifest.ts";

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
      await (fixed ? moveIn(storage, target, now) : swap(storage, { staging, target }, now));
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
    if (entries.length === 0 || (await readManifest(storage, name)) !== undefined) return name;
  }
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
  const aside = await freeName(storage, `${target}.scion-replaced`);
  await storage.remove(aside);
  const files = found.state === "own" ? [...found.stamps.keys()] : ["*"];
  await writeManifest(storage, aside, {
    kind: "replaced",
    files: Object.fromEntries(files.map((file) => [file, null])),
  });
  const old = joinPath(aside, "old");
  await storage.rename(target, old);
  try {
    await storage.rename(staging, target);
  } catch (error) {
    await storage.rename(old, target);
    await storage.remove(joinPath(aside, manifestFile));
    await storage.prune(aside);
    throw error;
  }
  await clearAside(storage, aside);
}

/** Remove what was replaced: the files that were found to be Scion's, or everything where that was asked for. */
async function clearAside(storage: Storage, aside: string): Promise<void> {
  const { files = {} } = (await readManifest(storage, aside)) ?? {};
  const old = joinPath(aside, "old");
  if (Object.hasOwn(files, "*")) await storage.remove(old);
  for (const file of Object.keys(files)) await storage.remove(joinPath(old, file));
  for (const name of await storage.list(old)) {
    if (systemFiles.has(name) || passing.has(name)) await storage.remove(joinPath(old, name));
  }
  await storage.prune(old);
  if ((await storage.list(old)).length > 0) return; // somebody put a file there meanwhile: it stays
  await storage.remove(joinPath(aside, manifestFile));
  await storage.prune(aside);
}

/** After a writer that was killed: what it had put aside goes back where nothing took its place, or is removed. */
async function recover(storage: Storage, target: string): Promise<void> {
  const aside = `${target}.scion-replaced`;
  if ((await readManifest(storage, aside))?.kind !== "replaced") return;
  const old = joinPath(aside, "old");
  const gone = (await storage.list(target)).length === 0;
  if (gone && (await storage.list(old)).length > 0) await storage.rename(old, target);
  await clearAside(storage, aside);
}

const movesFile = ".scion-moves.json";

/** Replace what is in a folder that stays, file by file. A list of what is moved lets the next writer finish it. */
async function moveIn(storage: Storage, target: string, found: Found): Promise<void> {
  const staging = joinPath(target, ".scion-partial");
  const entries = await storage.list(target);
  const old =
    found.state === "own"
      ? [...found.stamps.keys()]
      : entries.filter((name) => !systemFiles.has(name) && !passing.has(name));
  const files = (await filesIn(storage, staging)).filter((file) => file !== manifestFile);
  const moves = { out: found.state === "absent" ? [] : old, in: [...files, manifestFile] };
  await storage.write(joinPath(staging, movesFile), JSON.stringify(moves));
  await finishMoves(storage, target);
}

/** Carry out, or go on with, what {@link moveIn} wrote down: first what goes is set aside, then what is new comes. */
async function finishMoves(storage: Storage, target: string): Promise<void> {
  const staging = joinPath(target, ".scion-partial");
  const path = joinPath(staging, movesFile);
  if ((await storage.sizeBytes(path)) === undefined) return;
  const moves = (await readJsonObject(storage, path)) as { out?: readonly string[]; in?: readonly string[] }; // written above
  const move = async (from: string, to: string, name: string): Promise<void> => {
    const file = name.replace(/\/$/, "");
    const there =
      (await storage.sizeBytes(joinPath(from, file))) !== undefined ||
      (await storage.list(joinPath(from, file))).length > 0;
    if (there) await storage.rename(joinPath(from, file), joinPath(to, file));
  };
  for (const file of moves.out ?? []) await move(target, joinPath(staging, ".old"), file);
  await storage.write(path, JSON.stringify({ in: moves.in ?? [] }));
  for (const name of await storage.list(target)) {
    if (name.endsWith("/") && !passing.has(name)) await storage.prune(joinPath(target, name.slice(0, -1)));
  }
  for (const file of moves.in ?? []) await move(staging, target, file);
  await storage.remove(staging);
}

/** Add a file to a folder that {@link writeFolder} wrote, as one of its own. */
export async function addFile(storage: Storage, folder: string, name: string, content: string): Promise<void> {
  const manifest = await readManifest(storage, folder);
  // Said first: a file that is not there is nobody's, and one that is there and not said would be a stranger.
  if (manifest)
    await writeManifest(storage, folder, { ...manifest, files: { ...manifest.files, [name]: contentHash(content) } });
  await storage.write(joinPath(folder, name), content);
}
