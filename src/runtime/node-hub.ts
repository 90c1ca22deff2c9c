import { createWriteStream } from "node:fs";
import { copyFile, mkdir, open, readFile, rename, rm, stat, statfs, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { TuneError } from "../errors.ts";
import { parseJson } from "../io/json.ts";
import { Again, ask, type FetchSettings, maxTries, patientFetch, pause, reasonOf } from "./node-hub-fetch.ts";
import { contentName, damagedIn, isEtag, openVerified, type Verified } from "./node-hub-verified.ts";
import { clearStrays, lockFile, partialName } from "./node-lock.ts";
import type { FindModelOptions } from "./platform.ts";

/** Where models come from and where they are kept. */
export interface HubSettings extends FetchSettings {
  /** Folder of the cache, laid out as `huggingface_hub` does, so that Python shares it. */
  readonly cacheDir: string;
  readonly accessToken: string | undefined;
  /** Use the cache only. */
  readonly offline: boolean;
}

/** The settings that the Hugging Face libraries read from the environment (`HF_HOME`, `HF_TOKEN`, …). */
export async function hubSettings(env: Readonly<Record<string, string | undefined>>): Promise<HubSettings> {
  const home = env.HF_HOME ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface");
  const stored = await readFile(env.HF_TOKEN_PATH ?? join(home, "token"), "utf8").catch(() => "");
  return {
    hubUrl: (env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/+$/, ""),
    cacheDir: env.HF_HUB_CACHE ?? join(home, "hub"),
    accessToken: (env.HF_TOKEN ?? stored).trim() || undefined,
    offline: /^(1|true|yes|on)$/i.test(env.HF_HUB_OFFLINE ?? ""),
    retryPauseMs: 500,
    stallMs: 1000 * (Number(env.HF_HUB_DOWNLOAD_TIMEOUT) || 30),
  };
}

/** A model on the hub. */
export interface HubId {
  readonly name: string;
  readonly revision: string;
}

/** Read `owner/name` or `owner/name@revision`; undefined when the text is neither. */
export function parseHubId(source: string): HubId | undefined {
  const [, name, revision = "main"] = /^([\w.-]+\/[\w.-]+)(?:@([\w./-]+))?$/.exec(source) ?? [];
  if (name === undefined || /(^|\/)\.|\.\./.test(`${name}/${revision}`)) return undefined;
  return { name, revision };
}

/** One file of a repository; `etag` names its content: a SHA-256 for large files, a git object id for small ones. */
interface HubFile {
  readonly path: string;
  readonly etag: string;
  readonly sizeBytes: number;
}

/**
 * The local folder of a hub model, fetching the files it lacks: configuration, tokenizer, templates, licence and
 * safetensors, nothing else. Interrupted downloads go on where they stopped; every file is checked against the hash
 * that the hub states. Who wants a file that another process is fetching waits for it. When the hub does not answer, a complete cached copy is used.
 * @throws {TuneError} `hub-not-found`, `hub-gated`, `hub-file-missing`, `hub-unreachable` or `hub-interrupted`.
 */
export async function fetchModel(id: HubId, settings: HubSettings, options: FindModelOptions = {}): Promise<string> {
  const repository = join(settings.cacheDir, `models--${id.name.replace("/", "--")}`);
  const cached = await cachedSnapshot(repository, id.revision);
  const verified = await openVerified(join(repository, "blobs"));
  const damaged = cached === undefined ? [] : await damagedIn(cached, verified);
  if (cached !== undefined && settings.offline && damaged.length > 0) throw damagedCopy(id, cached, damaged);
  if (cached !== undefined && damaged.length === 0 && (settings.offline || isCommit(id.revision))) return cached;
  if (settings.offline) throw unreachable(id, settings, "HF_HUB_OFFLINE is set");

  let commit: string;
  let files: readonly HubFile[];
  try {
    ({ commit, files } = await listModel(id, settings));
  } catch (error) {
    if (cached !== undefined && error instanceof TuneError && error.code === "hub-unreachable") {
      if (damaged.length > 0) throw damagedCopy(id, cached, damaged, error);
      return cached;
    }
    throw error;
  }
  const snapshot = join(repository, "snapshots", commit);
  for (const file of files) {
    const blob = join(repository, "blobs", file.etag);
    if (!(await verified.isWhole(file.etag)))
      await downloadOnce(id, commit, file, { blob, verified }, settings, options);
    await link(blob, join(snapshot, file.path));
  }
  await verified.save();
  await clearStrays(snapshot);
  await clearStrays(join(repository, "blobs"));
  await writeRef(repository, id.revision, commit);
  return snapshot;
}

function damagedCopy(
  id: HubId,
  snapshot: string,
  damaged: readonly { readonly file: string }[],
  cause?: TuneError,
): TuneError {
  const names = damaged.map(({ file }) => file).join(", ");
  return new TuneError("hub-damaged", `The cached copy of ${id.name} is not what the hub sent: ${names}.`, {
    at: snapshot,
    fix: "run the command again where the hub can be reached (without HF_HUB_OFFLINE): those files are fetched anew",
    ...(cause === undefined ? {} : { cause }),
  });
}

async function cachedSnapshot(repository: string, revision: string): Promise<string | undefined> {
  const ref = await readFile(join(repository, "refs", revision), "utf8").catch(() => "");
  const commit = isCommit(revision) ? revision : ref.trim();
  if (!isCommit(commit)) return undefined;
  const snapshot = join(repository, "snapshots", commit);
  return (await isComplete(snapshot)) ? snapshot : undefined;
}

/** Whether a snapshot holds the configuration and every weight file; a killed download leaves fewer. */
async function isComplete(snapshot: string): Promise<boolean> {
  if ((await sizeOf(join(snapshot, "config.json"))) === undefined) return false;
  if ((await sizeOf(join(snapshot, "model.safetensors"))) !== undefined) return true;
  try {
    const index: unknown = parseJson(await readFile(join(snapshot, "model.safetensors.index.json"), "utf8"));
    const shards = new Set<unknown>(Object.values((index as { weight_map: object }).weight_map));
    const sizes = await Promise.all([...shards].map((shard) => sizeOf(join(snapshot, String(shard)))));
    return sizes.length > 0 && sizes.every((size) => size !== undefined);
  } catch {
    return false;
  }
}

async function listModel(
  id: HubId,
  settings: HubSettings,
): Promise<{ readonly commit: string; readonly files: readonly HubFile[] }> {
  const hub = await import("@huggingface/hub");
  // The hub tells a gated repository from a missing one in a header that the library's errors leave out.
  let errorCode = "";
  const patient = patientFetch(settings);
  const recordingFetch: typeof fetch = async (input, init) => {
    const response = await patient(input, init);
    errorCode = response.headers.get("x-error-code") ?? "";
    return response;
  };
  const common = {
    hubUrl: settings.hubUrl,
    fetch: recordingFetch,
    ...(settings.accessToken === undefined ? {} : { accessToken: settings.accessToken }),
  };
  try {
    const { sha } = await hub.modelInfo({
      name: id.name,
      revision: id.revision,
      additionalFields: ["sha"],
      ...common,
    });
    if (!isCommit(sha)) throw new TuneError("hub-interrupted", `${settings.hubUrl} states no commit for ${id.name}.`);
    const all: HubFile[] = [];
    const folders: string[] = [];
    const listFolder = async (folder: object): Promise<void> => {
      for await (const entry of hub.listFiles({ repo: id.name, revision: sha, ...folder, ...common })) {
        const etag = entry.lfs?.oid ?? entry.oid ?? "";
        if (all.length === mostFiles) {
          throw new TuneError(
            "hub-interrupted",
            `${settings.hubUrl} lists more than ${mostFiles} files of ${id.name}.`,
          );
        }
        if (entry.type === "file") all.push({ path: entry.path, etag, sizeBytes: entry.lfs?.size ?? entry.size });
        else if (entry.type === "directory" && moduleFolder.test(entry.path)) folders.push(entry.path);
      }
    };
    await listFolder({});
    if (all.some(({ path }) => path === "modules.json"))
      for (const path of folders.slice(0, mostModules)) await listFolder({ path });
    return { commit: sha, files: wantedFiles(id, settings, all) };
  } catch (error) {
    if (error instanceof TuneError) throw error;
    if (error instanceof hub.HubApiError) throw refused(id, settings, error.statusCode, errorCode);
    throw unreachable(id, settings, reasonOf(error), error);
  }
}

/** More files than any repository with a model has. */
const mostFiles = 100_000;

/** Folders of sentence-transformers' modules, what is wanted of them, and more of them than any model has. */
const moduleFolder = /^\d+_\w+$/;
const moduleFile = /^\d+_\w+\/(config\.json|model\.safetensors)$/;
const mostModules = 20;

const companions =
  /^(config|preprocessor_config|modules|sentence_bert_config|config_sentence_transformers|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index)\.json$|^merges\.txt$|^chat_template\.jinja$|^LICEN[CS]E(\.\w+)?$/;
const shard = /^model-\d+-of-\d+\.safetensors$/;

function wantedFiles(id: HubId, settings: HubSettings, all: readonly HubFile[]): readonly HubFile[] {
  const whole = all.filter(({ path }) => path === "model.safetensors");
  const weights = whole.length > 0 ? whole : all.filter(({ path }) => shard.test(path));
  const others = all.filter(({ path }) => companions.test(path) || moduleFile.test(path));
  const missing = [
    ...(others.some(({ path }) => path === "config.json") ? [] : ["config.json"]),
    ...(weights.length > 0 ? [] : ["model.safetensors"]),
  ];
  if (missing.length > 0) {
    const pickled = all.some(({ path }) => /\.(bin|pth?|ckpt)$/.test(path));
    throw new TuneError("hub-file-missing", `${id.name} holds no ${missing.join(" and no ")}.`, {
      at: `${settings.hubUrl}/${id.name}`,
      fix: pickled
        ? "its weights are pickled, which could run code when read: look for a revision or a copy in safetensors"
        : "choose a repository that holds a model in the transformers layout",
    });
  }
  for (const { path, etag, sizeBytes } of [...others, ...weights]) {
    if (!isEtag(etag) || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
      throw new TuneError("hub-interrupted", `${settings.hubUrl} states no hash and size for ${path} of ${id.name}.`);
    }
  }
  return [...others, ...weights];
}

/** Fetch one file, unless another process is doing it: then wait until that has ended, showing how far it is. */
async function downloadOnce(
  id: HubId,
  commit: string,
  file: HubFile,
  { blob, verified }: { readonly blob: string; readonly verified: Verified },
  settings: HubSettings,
  options: FindModelOptions,
): Promise<void> {
  await mkdir(dirname(blob), { recursive: true });
  let [seen, since] = [-1, performance.now()];
  for (;;) {
    let lock: Awaited<ReturnType<typeof lockFile>>;
    try {
      lock = await lockFile(blob);
    } catch (error) {
      if (!(error instanceof TuneError) || error.code !== "in-use") throw error;
      const doneBytes = (await sizeOf(partialOf(blob))) ?? 0;
      if (doneBytes !== seen) [seen, since] = [doneBytes, performance.now()];
      // Longer than the other would go on trying without a byte.
      else if (performance.now() - since > maxTries * (settings.stallMs + 32 * settings.retryPauseMs)) throw error;
      options.onDownload?.({ file: file.path, doneBytes, totalBytes: file.sizeBytes });
      await new Promise((resolve) => setTimeout(resolve, Math.min(250, settings.stallMs)));
      continue;
    }
    try {
      if (await verified.isWhole(file.etag)) return;
      await rm(blob, { force: true }); // damaged, if it is there
      await download(id, commit, file, blob, settings, options);
      await verified.note(file.etag);
      return;
    } finally {
      await lock.release();
    }
  }
}

/** Where a file is until it is whole. Not where Python's library has its own, which another process may be writing. */
function partialOf(blob: string): string {
  return `${blob}.scion.incomplete`;
}

/** An attempt that brought this much starts the count of attempts anew. */
const progressBytes = 1e6;

/** Fetch one file, going on from what is there, check it, then give it its name. */
async function download(
  id: HubId,
  commit: string,
  file: HubFile,
  blob: string,
  settings: HubSettings,
  options: FindModelOptions,
): Promise<void> {
  const partial = partialOf(blob);
  let resumed = ((await sizeOf(partial)) ?? 0) > 0;
  await refuseFullDisk(partial, file, settings);
  for (let attempt = 1; ; attempt++) {
    const before = (await sizeOf(partial)) ?? 0;
    try {
      if (before < file.sizeBytes || before === 0) await append(id, commit, file, partial, before, settings, options);
      if ((await sizeOf(partial)) === file.sizeBytes && (await contentName(partial, file.etag.length)) === file.etag)
        break;
      await rm(partial, { force: true });
      if (!resumed) throw notAsStated(id, file, settings);
      resumed = false; // its parts may be of different days: once more, from the start
    } catch (error) {
      if (error instanceof TuneError) throw error;
      if (codeOf(error) === "ENOSPC" || codeOf(error) === "EACCES") throw unwritable(partial, reasonOf(error), error);
      const after = (await sizeOf(partial)) ?? 0;
      if (after - before >= progressBytes) attempt = 0;
      if (after > 0) resumed = true;
      if (attempt >= maxTries) throw unreachable(id, settings, reasonOf(error), error);
      await pause(error, Math.max(1, attempt), settings).catch((reason: unknown) => {
        throw unreachable(id, settings, reasonOf(reason), error);
      });
    }
  }
  await flush(partial); // a name that outlives a power cut must not name half of it
  await rename(partial, blob);
}

async function flush(path: string): Promise<void> {
  const handle = await open(path, "r+");
  await handle.sync().finally(() => handle.close());
}

async function refuseFullDisk(partial: string, { sizeBytes, path }: HubFile, settings: HubSettings): Promise<void> {
  const needed = sizeBytes - ((await sizeOf(partial)) ?? 0);
  const disk = await statfs(settings.cacheDir).catch(() => undefined); // not every disk tells
  const free = disk === undefined ? Number.POSITIVE_INFINITY : disk.bavail * disk.bsize;
  if (needed <= free) return;
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
  throw unwritable(partial, `${path} takes ${gigabytes(needed)}, and ${gigabytes(free)} are free`);
}

function unwritable(path: string, reason: string, cause?: unknown): TuneError {
  return new TuneError("write-failed", `cannot write ${path}: ${reason}.`, {
    fix: "free space, or set HF_HOME to a folder on another disk",
    ...(cause === undefined ? {} : { cause }),
  });
}

function notAsStated(id: HubId, { path }: HubFile, settings: HubSettings): TuneError {
  return new TuneError("hub-interrupted", `${path} of ${id.name} is not what the hub said it would be.`, {
    at: `${settings.hubUrl}/${id.name}`,
    fix: "run the command again; what arrived was thrown away",
  });
}

async function append(
  id: HubId,
  commit: string,
  file: HubFile,
  partial: string,
  from: number,
  settings: HubSettings,
  { onDownload }: FindModelOptions,
): Promise<void> {
  const path = file.path.split("/").map(encodeURIComponent).join("/");
  const { response, body } = await ask(
    `${settings.hubUrl}/${id.name}/resolve/${commit}/${path}`,
    {
      ...(settings.accessToken === undefined ? {} : { Authorization: `Bearer ${settings.accessToken}` }),
      ...(from > 0 ? { Range: `bytes=${from}-` } : {}),
      "Accept-Encoding": "identity", // a range of something compressed would be another
    },
    settings,
  );
  if (response.status === 416) {
    await rm(partial, { force: true });
    throw new Again("what is there of it is not a part of it");
  }
  if (!response.ok) throw refused(id, settings, response.status, response.headers.get("x-error-code") ?? "");
  const resumed = response.status === 206;
  const [, start = from] = /^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "") ?? [];
  if (resumed && Number(start) !== from) {
    await rm(partial, { force: true });
    throw new Again("it sends another part than the one asked for");
  }
  let doneBytes = resumed ? from : 0;
  const counted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const chunk of body) {
      doneBytes += chunk.length;
      if (doneBytes > file.sizeBytes) throw new TuneError("hub-interrupted", `${file.path} is longer than stated.`);
      onDownload?.({ file: file.path, doneBytes, totalBytes: file.sizeBytes });
      yield chunk;
    }
  };
  await pipeline(Readable.from(counted()), createWriteStream(partial, { flags: resumed ? "a" : "w" }));
  if (doneBytes < file.sizeBytes) throw new Again("the connection closed early");
}

async function link(blob: string, pointer: string): Promise<void> {
  if ((await sizeOf(pointer)) !== undefined) return;
  await mkdir(dirname(pointer), { recursive: true });
  const draft = partialName(pointer);
  // Windows makes links for administrators only.
  await symlink(relative(dirname(pointer), blob), draft).catch(() => copyFile(blob, draft));
  await rename(draft, pointer);
}

async function writeRef(repository: string, revision: string, commit: string): Promise<void> {
  if (isCommit(revision)) return;
  const path = join(repository, "refs", revision);
  await mkdir(dirname(path), { recursive: true });
  const draft = partialName(path);
  await writeFile(draft, commit);
  await rename(draft, path);
  await clearStrays(dirname(path));
}

function refused(id: HubId, settings: HubSettings, status: number, errorCode: string): TuneError {
  const at = `${settings.hubUrl}/${id.name}`;
  if (errorCode === "RepoNotFound" || errorCode === "RevisionNotFound" || status === 404) {
    const what = errorCode === "RevisionNotFound" ? `revision ${id.revision}` : "model";
    return new TuneError(
      "hub-not-found",
      `There is no ${what} ${id.name} on the hub, nor a folder of that name here.`,
      {
        at,
        fix: "check the name; set HF_TOKEN if the repository is private",
      },
    );
  }
  if (status === 401 || status === 403) {
    return new TuneError("hub-gated", `${id.name} may only be fetched by those who were given access.`, {
      at,
      fix: `accept its terms at ${at}, then set HF_TOKEN to a token of your account`,
    });
  }
  return unreachable(id, settings, `it answered ${status}`);
}

function unreachable(id: HubId, settings: HubSettings, reason: string, cause?: unknown): TuneError {
  return new TuneError("hub-unreachable", `Cannot fetch ${id.name}: ${reason}; and no complete copy is cached.`, {
    at: settings.hubUrl,
    fix: "check the connection (HF_ENDPOINT, HF_HUB_OFFLINE), or pass the folder of a model you already have",
    ...(cause === undefined ? {} : { cause }),
  });
}

function isCommit(revision: unknown): revision is string {
  return typeof revision === "string" && /^[0-9a-f]{40}$/.test(revision);
}

async function sizeOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ size }) => size,
    () => undefined,
  );
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}
