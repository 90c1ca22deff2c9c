import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, readFile, readlink, rename, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { isJsonObject, parseJson } from "../io/json.ts";
import { partialName } from "./node-lock.ts";

/*
 * Files of the hub's cache are named after their content: a SHA-256, or git's object id. That is checked once for each, and
 * remembered with the file's time and size, so that a file that was damaged since is fetched anew and never used.
 */

/** Which files of a cache are what their names say. */
export interface Verified {
  /** Whether a file is there and is what its name says; it is read unless that was done before and it is unchanged. */
  isWhole(etag: string): Promise<boolean>;
  /** A file was looked at and has its name: it need not be read again. */
  note(etag: string): Promise<void>;
  /** Remember what was found. */
  save(): Promise<void>;
}

/** What is known of a folder of files that are named after their content. */
export async function openVerified(blobs: string): Promise<Verified> {
  const path = join(blobs, ".scion-verified.json");
  const known = new Map<string, string>();
  try {
    const saved: unknown = parseJson(await readFile(path, "utf8"));
    if (isJsonObject(saved)) for (const [etag, stamp] of Object.entries(saved)) known.set(etag, String(stamp));
  } catch {
    // none, or damaged: everything is looked at again
  }
  let changed = false;
  return {
    isWhole: async (etag) => {
      const blob = join(blobs, etag);
      const stamp = await stampOf(blob);
      if (stamp === undefined) return false;
      if (known.get(etag) === stamp) return true;
      if ((await contentName(blob, etag.length)) !== etag || (await stampOf(blob)) !== stamp) return false;
      known.set(etag, stamp);
      changed = true;
      return true;
    },
    note: async (etag) => {
      const stamp = await stampOf(join(blobs, etag));
      if (stamp !== undefined) known.set(etag, stamp);
      changed = true;
    },
    save: async () => {
      if (!changed) return;
      changed = false;
      const draft = partialName(path);
      try {
        await writeFile(draft, JSON.stringify(Object.fromEntries(known)));
        await rename(draft, path);
      } catch {
        // A cache that cannot be written to is looked at again each time.
      }
    },
  };
}

/** Files of a snapshot that are not what the hub named them, and their names there; copies have no name to hold them to. */
export async function damagedIn(
  snapshot: string,
  verified: Verified,
): Promise<readonly { readonly file: string; readonly etag: string }[]> {
  const damaged: { file: string; etag: string }[] = [];
  for (const name of (await readdir(snapshot, { recursive: true })) as string[]) {
    const etag = basename(await readlink(join(snapshot, name)).catch(() => ""));
    if (isEtag(etag) && !(await verified.isWhole(etag))) damaged.push({ file: name, etag });
  }
  await verified.save();
  return damaged;
}

/** Whether a name is that of a content: a SHA-256, or an object id of git. */
export function isEtag(name: string): boolean {
  return /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(name);
}

/** The name of a file's content, as long as the one it is held to. */
export async function contentName(path: string, length: number): Promise<string> {
  const hash = createHash(length === 64 ? "sha256" : "sha1");
  if (length === 40) hash.update(`blob ${(await stat(path)).size}\0`);
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}

async function stampOf(path: string): Promise<string | undefined> {
  const info = await stat(path, { bigint: true }).catch(() => undefined);
  return info?.isFile() ? `${info.ino} ${info.size} ${info.mtimeNs}` : undefined;
}
