import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { link, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { TuneError } from "../errors.ts";
import { parseJson } from "../io/json.ts";
import { inUse, type Lock } from "../io/storage.ts";

/** Who holds a lock: what its file says. */
interface Holder {
  readonly pid: number;
  /** When the process started, as its system tells, so that a later process of the same number is not taken for it. */
  readonly started: string;
  readonly host: string;
  /** This one lock. */
  readonly id: string;
}

/**
 * Make the file `<path>.lock`, which says whose it is. A file left by a process that is gone is taken over: a run that was
 * killed resumes at once. On a disk that several machines share, a lock of another machine is believed.
 * @throws {TuneError} `in-use`, naming the process; what opening the file throws.
 */
export async function lockFile(path: string): Promise<Lock> {
  const file = `${path}.lock`;
  const own: Holder = { pid: process.pid, started: startOf(process.pid) ?? "", host: hostname(), id: randomUUID() };
  for (let attempt = 0; attempt < 20; attempt++) {
    if (await created(file, own)) {
      return {
        release: async () => {
          if ((await holderOf(file))?.id === own.id) await rm(file, { force: true });
        },
      };
    }
    const holder = await holderOf(file);
    if (holder === undefined) continue; // released meanwhile, or half written: look again
    if (isAlive(holder)) {
      const other = holder.host === own.host ? "" : ` on ${holder.host}`;
      throw inUse(path, `process ${holder.pid}${other}`, `wait until it has ended, or remove ${file} if it has`);
    }
    await takeAway(file, holder);
  }
  throw inUse(path, "others, one after the other");
}

async function created(file: string, own: Holder): Promise<boolean> {
  // Written whole before it has its name, where the disk can give one file two: nobody reads half of it.
  const draft = `${file}.${own.id}`;
  const handle = await open(draft, "wx");
  try {
    await handle.writeFile(JSON.stringify(own));
  } finally {
    await handle.close();
  }
  try {
    await link(draft, file).catch((error: unknown) => {
      if (codeOf(error) === "EEXIST") throw error;
      return writeFile(file, JSON.stringify(own), { flag: "wx" });
    });
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
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
    const { pid, started, host, id } = holder;
    if (typeof pid === "number" && typeof started === "string" && typeof host === "string" && typeof id === "string")
      return { pid, started, host, id };
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

function isAlive({ pid, started, host }: Holder): boolean {
  if (host !== hostname()) return true;
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

/** When a process started, where the system has /proc; a zombie counts as gone. */
function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
    return fields[0] === "Z" ? undefined : fields[19]; // state, and starttime: fields 3 and 22 of proc(5)
  } catch {
    return process.platform === "linux" ? undefined : "";
  }
}
