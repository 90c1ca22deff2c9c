import { createHash, randomUUID } from "node:crypto";
import { readFileSync, readlinkSync, rmSync } from "node:fs";
import { link, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { TuneError } from "../errors.ts";
import { parseJson } from "../io/json.ts";
import { halfWritten, lockDraft } from "../io/left-names.ts";
import { inUse, type Lock } from "../io/storage.ts";

/** Who holds a lock: what its file says. */
interface Holder {
  readonly pid: number;
  /** When the process started, as its system tells, so that a later process of the same number is not taken for it. */
  readonly started: string;
  readonly host: string;
  /** Where its number means this very process: a boot of a machine and a container on it; "" where that is not told. */
  readonly place: string;
  /** This one lock. */
  readonly id: string;
}

/**
 * Make the file `<path>.lock`, which says whose it is. A file left by a process that is gone is taken over: a run that was
 * killed resumes at once. Who has a lock writes it again every minute, so that one of another machine or container, whose
 * processes cannot be seen from here, is taken over when it has not been written for half an hour.
 * @throws {TuneError} `in-use`, naming the process; what opening the file throws.
 */
export async function lockFile(path: string): Promise<Lock> {
  const file = `${path}.lock`;
  const own: Holder = { pid: process.pid, started: ownStart, host: hostname(), place: ownPlace, id: randomUUID() };
  for (let attempt = 0; attempt < 20; attempt++) {
    const made = await created(file, own);
    if (made === "made") {
      const beating = setInterval(() => void beat(file, own).catch(() => undefined), beatMs);
      beating.unref();
      held.set(own.id, file);
      await clearStrays(dirname(path));
      return {
        release: async () => {
          clearInterval(beating);
          held.delete(own.id);
          if ((await holderOf(file))?.id === own.id) await rm(file, { force: true });
        },
      };
    }
    const holder = await holderOf(file);
    if (holder === undefined) continue; // released meanwhile, or half written: look again
    const written = await stat(file).catch(() => undefined);
    if (written === undefined) continue;
    const silentMs = made.now - written.mtimeMs; // both by the clock of the disk
    if (isAlive(holder, silentMs)) {
      const other = holder.host === own.host ? "" : ` on ${holder.host}`;
      const since = `it is taken over when it has given no sign of life for ${silentAfterMs / 60_000} minutes, now ${Math.round(Math.max(0, silentMs) / 60_000)}`;
      const wait = seenFromHere(holder) ? "" : ` (${since})`;
      throw inUse(path, `process ${holder.pid}${other}`, `wait until it has ended, or remove ${file} if it has${wait}`);
    }
    await takeAway(file, holder);
  }
  throw inUse(path, "others, one after the other");
}

/** Files of locks that this process has, by their ids. Those that it has when it exits, such as at a signal, go with it. */
const held = new Map<string, string>();
process.on("exit", () => {
  for (const [id, file] of held) {
    try {
      if ((parseJson(readFileSync(file, "utf8")) as Partial<Holder>).id === id) rmSync(file); // else somebody took it over
    } catch {
      // taken away, or its folder is gone
    }
  }
});

/** How often a lock is written again, and after what silence it is nobody's. */
const [beatMs, silentAfterMs] = [60_000, 1_800_000];

/** Write a lock again, in its place: whoever took it over has a file of his own. */
async function beat(file: string, own: Holder): Promise<void> {
  const handle = await open(file, "r+");
  try {
    const text = JSON.stringify(own);
    if ((await handle.readFile("utf8")) === text) await handle.write(text, 0);
  } finally {
    await handle.close();
  }
}

/** Make the lock's file, or tell the time by the disk's clock where there is one already. */
async function created(file: string, own: Holder): Promise<"made" | { readonly now: number }> {
  // Written whole before it has its name, where the disk can give one file two: nobody reads half of it.
  const draft = `${file}.${own.id}`;
  const handle = await open(draft, "wx");
  let now: number;
  try {
    await handle.writeFile(JSON.stringify(own));
    now = (await handle.stat()).mtimeMs;
  } finally {
    await handle.close();
  }
  try {
    await link(draft, file).catch((error: unknown) => {
      if (codeOf(error) === "EEXIST") throw error;
      return writeFile(file, JSON.stringify(own), { flag: "wx" });
    });
    return "made";
  } catch (error) {
    if (codeOf(error) === "EEXIST") return { now };
    throw error;
  } finally {
    await rm(draft, { force: true });
  }
}

/** Undefined when there is none. Something else under its name is nobody's lock, and in the way. */
async function holderOf(file: string): Promise<Holder | undefined> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch {
    return undefined;
  }
  try {
    const holder = parseJson(text) as Partial<Holder>; // checked below
    const { pid, started, host, id, place = "" } = holder;
    if (typeof pid === "number" && typeof started === "string" && typeof host === "string" && typeof id === "string")
      return { pid, started, host, id, place };
  } catch {
    // not ours
  }
  throw new TuneError("in-use", `${file} is no lock of Scion's.`, { at: file, fix: "remove it if nothing needs it" });
}

/** Remove the lock of one that is gone; when another took it over meanwhile, that one's is put back. */
async function takeAway(file: string, { id }: Holder): Promise<void> {
  const aside = `${file}.${randomUUID()}`;
  try {
    await rename(file, aside);
  } catch {
    return; // somebody else was faster
  }
  if ((await holderOf(aside))?.id === id) await rm(aside, { force: true });
  else await rename(aside, file);
}

function isAlive(holder: Holder, silentMs: number): boolean {
  return seenFromHere(holder) ? isRunning(holder) : silentMs < silentAfterMs;
}

/** Whether the process would be seen here, if it were there. */
function seenFromHere({ host, place }: Holder): boolean {
  return place === "" ? host === hostname() : place === ownPlace;
}

function isRunning({ pid, started }: Pick<Holder, "pid" | "started">): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) === "ESRCH") return false;
  }
  return started === "" || startOf(pid) === started;
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

/** This boot of this machine, and the processes that are seen in this container. */
const ownPlace = placeOf();
const ownStart = startOf(process.pid) ?? "";

function placeOf(): string {
  try {
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return "";
  }
}

/** What the name of a file says that only this process writes. */
const processMark: string = `${createHash("sha256").update(`${hostname()} ${ownPlace}`).digest("hex").slice(0, 8)}-${process.pid}-${ownStart}`;

/**
 * Whether a file, by a mark in its name and by how long nobody has written it, was left by a process that is gone: one of
 * this machine that does not run, or one that is not seen from here and has been silent as long as a lock may be.
 */
function isStray(mark: string, silentMs: number): boolean {
  const [place, pid = "", started = ""] = mark.split("-");
  if (mark === processMark) return false;
  if (place !== processMark.split("-")[0]) return silentMs >= silentAfterMs;
  return !isRunning({ pid: Number(pid), started });
}

/** A name beside a file for what is to become it, by which is known whose it was if it never does. */
export function partialName(target: string): string {
  return join(dirname(target), `.${basename(target)}.${processMark}-${randomUUID()}.partial`);
}

/** Kinds of files that a killed process leaves in a folder, by their names, and when they are nobody's any more. */
const strays: readonly (readonly [
  RegExp,
  (found: RegExpExecArray, path: string, silentMs: number) => Promise<boolean>,
])[] = [
  // Half written, under the names of `partialName`.
  [halfWritten, async ([, mark = ""], _path, silentMs) => isStray(mark, silentMs)],
  // Drafts of locks and locks put aside, and locks that nobody asked for again. Half of one tells nobody's name.
  [lockDraft, async (_found, path, silentMs) => isLeft(path, silentMs, silentMs >= silentAfterMs)],
  [/.\.lock$/, async (_found, path, silentMs) => isLeft(path, silentMs, false)],
];

/** Whether a lock's file names a holder that is gone; `otherwise` where it names none. */
async function isLeft(path: string, silentMs: number, otherwise: boolean): Promise<boolean> {
  const holder = await holderOf(path).catch(() => undefined);
  return holder === undefined ? otherwise : !isAlive(holder, silentMs);
}

/** Remove from a folder what processes that are gone have left there half written or locked. */
export async function clearStrays(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => [])) {
    const path = join(folder, name);
    for (const [pattern, isNobodys] of strays) {
      const found = pattern.exec(name);
      const info = found && (await stat(path).catch(() => undefined));
      if (!found || !info?.isFile() || !(await isNobodys(found, path, Date.now() - info.mtimeMs))) continue;
      const holder = name.endsWith(".lock") ? await holderOf(path).catch(() => undefined) : undefined;
      await (holder ? takeAway(path, holder) : rm(path, { force: true }));
    }
  }
}

/** When a process started, where the system has /proc; a zombie counts as gone. */
function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return fields[0] === "Z" ? undefined : fields[19]; // state, and starttime: fields 3 and 22 of proc(5)
  } catch {
    return process.platform === "linux" ? undefined : "";
  }
}
