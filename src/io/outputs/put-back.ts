import { TuneError } from "../../errors.ts";
import { readJsonObject } from "../json.ts";
import { dirname, joinPath, type Storage } from "../storage.ts";
import { filesIn, isPassing, isWithin, manifestFile, readManifest, systemFiles } from "./manifest.ts";

/*
 * A folder that is replaced stands aside as `<name>.scion-replaced/old` until the new one has its name; one that must stay
 * where it is gets its files one by one, by a list in `.scion-partial`. A process that is killed in between leaves a folder
 * that is not there, or is half the old and half the new. Whoever comes next, to write or to read, mends that first.
 */

/** How a writer's folders are called. */
export const asideName = (target: string): string => `${target}.scion-replaced`;
const movesFile = ".scion-moves.json";

/** How long a reader waits for a writer that is alive: the moment between two names. */
const [patienceMs, lookAgainMs] = [5000, 20];

/**
 * Mend what a writer that was killed while it replaced a folder has left, where somebody wants to read that folder or
 * something in it. Nothing is done, and little looked at, where it is there and whole.
 * @throws {TuneError} `put-aside`, naming the place, where it is not there and cannot be put back.
 */
export async function putBack(given: Storage, path: string): Promise<void> {
  const storage = given.guard?.behind ?? given; // what is read may not be written over, but it may be put back
  let folder = await storage.resolve(path);
  for (;;) {
    await mendFolder(storage, folder, path);
    const above = dirname(folder);
    if (above === "" || above === folder || (await isThere(storage, folder))) break;
    folder = above;
  }
  // What is there may lie in a folder whose files are being replaced one by one.
  for (let above = folder; above !== "" && above !== dirname(above); above = dirname(above)) {
    if (await isHalfMoved(storage, above)) await mendFolder(storage, above, path);
  }
}

async function mendFolder(storage: Storage, folder: string, named: string): Promise<void> {
  const started = performance.now();
  for (;;) {
    const halfMoved = await isHalfMoved(storage, folder);
    const aside = halfMoved ? undefined : await asideOf(storage, folder);
    if (!halfMoved && aside === undefined) return;
    const place = halfMoved ? joinPath(folder, ".scion-partial/.old") : joinPath(aside ?? "", "old");
    let lock: { release(): Promise<void> };
    try {
      lock = await storage.lock(halfMoved ? joinPath(folder, ".scion") : folder);
    } catch (error) {
      if (!(error instanceof TuneError)) throw error;
      if (error.code === "in-use" && performance.now() - started < patienceMs) {
        await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
        continue;
      }
      throw putAside(named, place, error);
    }
    try {
      await (halfMoved ? finishMoves(storage, folder) : recover(storage, folder));
    } catch (error) {
      if (error instanceof TuneError && error.code === "write-failed") throw putAside(named, place, error);
      throw error;
    } finally {
      await lock.release();
    }
    return;
  }
}

function putAside(named: string, place: string, cause: TuneError): TuneError {
  return new TuneError("put-aside", `${named} was being replaced, and what was there is in ${place}: ${cause.what}`, {
    at: named,
    fix: `when no process works there any more, move it back yourself, or run the command where that folder can be written to`,
    cause,
  });
}

async function isThere(storage: Storage, path: string): Promise<boolean> {
  return (await storage.sizeBytes(path)) !== undefined || (await storage.list(path)).length > 0;
}

function isHalfMoved(storage: Storage, folder: string): Promise<boolean> {
  return storage.sizeBytes(joinPath(folder, ".scion-partial", movesFile)).then((size) => size !== undefined);
}

/** Where a folder that is not there stands aside; undefined where it is there, or nowhere. */
async function asideOf(storage: Storage, target: string): Promise<string | undefined> {
  if (await isThere(storage, target)) return undefined;
  for (const aside of await asides(storage, target)) {
    if ((await storage.list(joinPath(aside, "old"))).length > 0) return aside;
  }
  return undefined;
}

/** Every folder in which a writer has put aside what was at a target; somebody else's of that name are none. */
async function asides(storage: Storage, target: string): Promise<readonly string[]> {
  const parent = dirname(target) || (/^[\\/]/.exec(target)?.[0] ?? "");
  const start = asideName(/[^\\/]*$/.exec(target)?.[0] ?? "");
  const found: string[] = [];
  for (const name of await storage.list(parent)) {
    const number = name.startsWith(start) ? name.slice(start.length) : "none";
    if (!/^(-\d+)?\/$/.test(number)) continue;
    const aside = joinPath(parent, name.slice(0, -1));
    if ((await readManifest(storage, aside))?.kind === "replaced") found.push(aside);
  }
  return found;
}

/** After a writer that was killed: what it had put aside goes back where nothing took its place, or is removed. */
export async function recover(storage: Storage, target: string): Promise<void> {
  for (const aside of await asides(storage, target)) {
    const old = joinPath(aside, "old");
    const gone = (await storage.list(target)).length === 0;
    if (gone && (await storage.list(old)).length > 0) await storage.rename(old, target);
    await clearAside(storage, aside);
  }
}

/** Remove what was replaced: the files that were found to be Scion's, or everything where that was asked for. */
export async function clearAside(storage: Storage, aside: string): Promise<void> {
  const { files = {} } = (await readManifest(storage, aside)) ?? {};
  const old = joinPath(aside, "old");
  if (Object.hasOwn(files, "*")) await storage.remove(old);
  for (const file of Object.keys(files)) await storage.remove(joinPath(old, file));
  await removePassing(storage, old);
  await storage.prune(old);
  if ((await storage.list(old)).length > 0) return; // somebody put a file there meanwhile: it stays
  await storage.remove(joinPath(aside, manifestFile));
  await storage.prune(aside);
}

/** Remove what comes and goes from a folder and those in it. */
async function removePassing(storage: Storage, folder: string, depth = 0): Promise<void> {
  for (const name of await storage.list(folder)) {
    const path = joinPath(folder, name.replace(/\/$/, ""));
    if ((depth === 0 && systemFiles.has(name)) || (isPassing(name) && (depth === 0 || !name.endsWith("/"))))
      await storage.remove(path);
    else if (name.endsWith("/") && depth < 8) await removePassing(storage, path, depth + 1);
  }
}

/** Replace what is in a folder that stays, file by file: `old` goes, and what is staged in it comes. */
export async function moveIn(storage: Storage, target: string, old: readonly string[]): Promise<void> {
  const staging = joinPath(target, ".scion-partial");
  const files = (await filesIn(storage, staging)).filter((file) => file !== manifestFile);
  await storage.write(joinPath(staging, movesFile), JSON.stringify({ out: old, in: [...files, manifestFile] }));
  await finishMoves(storage, target);
}

/**
 * What {@link moveIn} wrote down. A folder may come from a stranger: names that lead out of it are refused before anything moves.
 * @throws {TuneError} `put-aside`.
 */
async function readMoves(
  storage: Storage,
  path: string,
  target: string,
): Promise<{ readonly out: readonly string[]; readonly in: readonly string[] }> {
  const names = (list: unknown): list is readonly string[] =>
    Array.isArray(list) && list.every((name) => typeof name === "string" && isWithin(name));
  const { out = [], in: coming = [] } = await readJsonObject(storage, path);
  if (names(out) && names(coming)) return { out, in: coming };
  throw new TuneError("put-aside", `${path} is no list of files of ${target} that Scion wrote: nothing is moved.`, {
    at: path,
    fix: "remove the folder that it lies in, if you do not know where it comes from",
  });
}

/** Carry out, or go on with, what {@link moveIn} wrote down: first what goes is set aside, then what is new comes. */
export async function finishMoves(storage: Storage, target: string): Promise<void> {
  const staging = joinPath(target, ".scion-partial");
  const path = joinPath(staging, movesFile);
  if ((await storage.sizeBytes(path)) === undefined) return;
  const moves = await readMoves(storage, path, target);
  const move = async (from: string, to: string, name: string): Promise<void> => {
    const file = name.replace(/\/$/, "");
    const [source, place] = [joinPath(from, file), joinPath(to, file)];
    if (!(await isThere(storage, source))) return;
    try {
      await storage.rename(source, place);
    } catch (error) {
      // A folder that cannot be moved, such as a mount point or one of a lower layer of a container's disk.
      const inside = await storage.list(source);
      if (inside.length === 0) throw error;
      for (const below of inside) await move(source, place, below);
    }
  };
  for (const file of moves.out) await move(target, joinPath(staging, ".old"), file);
  await storage.write(path, JSON.stringify({ in: moves.in }));
  for (const name of await storage.list(target)) {
    if (name.endsWith("/") && !isPassing(name)) await storage.prune(joinPath(target, name.slice(0, -1)));
  }
  for (const file of moves.in) await move(staging, target, file);
  await storage.remove(staging);
}
