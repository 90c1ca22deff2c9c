import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { copyFile, mkdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { TuneError } from "../errors.ts";
import { parseJson } from "../io/json.ts";
import type { FindModelOptions } from "./platform.ts";

/** Where models come from and where they are kept. */
export interface HubSettings {
  /** Origin of the hub, without a slash at the end. */
  readonly hubUrl: string;
  /** Folder of the cache, laid out as `huggingface_hub` does, so that Python shares it. */
  readonly cacheDir: string;
  readonly accessToken: string | undefined;
  /** Use the cache only. */
  readonly offline: boolean;
  /** Pause before the first repetition of a failed request, in milliseconds; doubled each time. */
  readonly retryPauseMs: number;
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
 * that the hub states. When the hub does not answer, a complete cached copy is used.
 * @throws {TuneError} `hub-not-found`, `hub-gated`, `hub-file-missing`, `hub-unreachable` or `hub-interrupted`.
 */
export async function fetchModel(id: HubId, settings: HubSettings, options: FindModelOptions = {}): Promise<string> {
  const repository = join(settings.cacheDir, `models--${id.name.replace("/", "--")}`);
  const cached = await cachedSnapshot(repository, id.revision);
  if (cached !== undefined && (settings.offline || isCommit(id.revision))) return cached;
  if (settings.offline) throw unreachable(id, settings, "HF_HUB_OFFLINE is set");

  let commit: string;
  let files: readonly HubFile[];
  try {
    ({ commit, files } = await listModel(id, settings));
  } catch (error) {
    if (cached !== undefined && error instanceof TuneError && error.code === "hub-unreachable") return cached;
    throw error;
  }
  const snapshot = join(repository, "snapshots", commit);
  for (const file of files) {
    const blob = join(repository, "blobs", file.etag);
    if ((await sizeOf(blob)) !== file.sizeBytes) await download(id, commit, file, blob, settings, options);
    await link(blob, join(snapshot, file.path));
  }
  await writeRef(repository, id.revision, commit);
  return snapshot;
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
  const recordingFetch: typeof fetch = async (input, init) => {
    const response = await fetch(input, init);
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
    for await (const entry of hub.listFiles({ repo: id.name, revision: sha, ...common })) {
      const etag = entry.lfs?.oid ?? entry.oid ?? "";
      if (entry.type === "file") all.push({ path: entry.path, etag, sizeBytes: entry.lfs?.size ?? entry.size });
    }
    return { commit: sha, files: wantedFiles(id, settings, all) };
  } catch (error) {
    if (error instanceof TuneError) throw error;
    if (error instanceof hub.HubApiError) throw refused(id, settings, error.statusCode, errorCode);
    throw unreachable(id, settings, reasonOf(error), error);
  }
}

const companions =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index)\.json$|^merges\.txt$|^chat_template\.jinja$|^LICEN[CS]E(\.\w+)?$/;
const shard = /^model-\d+-of-\d+\.safetensors$/;

function wantedFiles(id: HubId, settings: HubSettings, all: readonly HubFile[]): readonly HubFile[] {
  const whole = all.filter(({ path }) => path === "model.safetensors");
  const weights = whole.length > 0 ? whole : all.filter(({ path }) => shard.test(path));
  const others = all.filter(({ path }) => companions.test(path));
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
    if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag) || !Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
      throw new TuneError("hub-interrupted", `${settings.hubUrl} states no hash and size for ${path} of ${id.name}.`);
    }
  }
  return [...others, ...weights];
}

const maxTries = 5;

/** Fetch one file into `<blob>.incomplete`, going on from what is there, check it, then give it its name. */
async function download(
  id: HubId,
  commit: string,
  file: HubFile,
  blob: string,
  settings: HubSettings,
  options: FindModelOptions,
): Promise<void> {
  const partial = `${blob}.incomplete`;
  await mkdir(dirname(blob), { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const before = (await sizeOf(partial)) ?? 0;
    try {
      if (before < file.sizeBytes || before === 0) await append(id, commit, file, partial, before, settings, options);
      break;
    } catch (error) {
      if (error instanceof TuneError) throw error;
      if (codeOf(error) === "ENOSPC" || codeOf(error) === "EACCES") {
        throw new TuneError("write-failed", `cannot write ${partial}: ${reasonOf(error)}.`, {
          fix: "free space, or set HF_HOME to a folder on another disk",
          cause: error,
        });
      }
      const progressed = ((await sizeOf(partial)) ?? 0) > before;
      if (progressed) attempt = 1;
      if (attempt >= maxTries) throw unreachable(id, settings, reasonOf(error), error);
      await new Promise((resolve) => setTimeout(resolve, settings.retryPauseMs * 2 ** (attempt - 1)));
    }
  }
  if ((await sizeOf(partial)) !== file.sizeBytes || (await hashOf(partial, file)) !== file.etag) {
    await rm(partial, { force: true });
    throw new TuneError("hub-interrupted", `${file.path} of ${id.name} is not what the hub said it would be.`, {
      at: `${settings.hubUrl}/${id.name}`,
      fix: "run the command again; what arrived was thrown away",
    });
  }
  await rename(partial, blob);
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
  const response = await fetch(`${settings.hubUrl}/${id.name}/resolve/${commit}/${path}`, {
    // fetch itself drops the token when the hub redirects to the origin that stores large files.
    headers: {
      ...(settings.accessToken === undefined ? {} : { Authorization: `Bearer ${settings.accessToken}` }),
      ...(from > 0 ? { Range: `bytes=${from}-` } : {}),
    },
  });
  if (response.status >= 500 || response.status === 429) throw new Error(`the hub answered ${response.status}`);
  if (!response.ok) throw refused(id, settings, response.status, response.headers.get("x-error-code") ?? "");
  const resumed = response.status === 206;
  let doneBytes = resumed ? from : 0;
  const count = new Transform({
    transform(chunk: Uint8Array, _encoding, done) {
      doneBytes += chunk.length;
      if (doneBytes > file.sizeBytes)
        return done(new TuneError("hub-interrupted", `${file.path} is longer than stated.`));
      onDownload?.({ file: file.path, doneBytes, totalBytes: file.sizeBytes });
      done(null, chunk);
    },
  });
  const body = response.body === null ? Readable.from([]) : Readable.fromWeb(response.body as never);
  await pipeline(body, count, createWriteStream(partial, { flags: resumed ? "a" : "w" }));
  if (doneBytes < file.sizeBytes) throw new Error("the connection closed early");
}

async function hashOf(path: string, { etag, sizeBytes }: HubFile): Promise<string> {
  const hash = createHash(etag.length === 64 ? "sha256" : "sha1");
  if (etag.length === 40) hash.update(`blob ${sizeBytes}\0`);
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest("hex");
}

async function link(blob: string, pointer: string): Promise<void> {
  if ((await sizeOf(pointer)) !== undefined) return;
  await mkdir(dirname(pointer), { recursive: true });
  await rm(pointer, { force: true });
  const relative = join("..", "..", "blobs", blob.slice(dirname(blob).length + 1));
  // Windows makes links for administrators only.
  await symlink(relative, pointer).catch(() => copyFile(blob, pointer));
}

async function writeRef(repository: string, revision: string, commit: string): Promise<void> {
  if (isCommit(revision)) return;
  const path = join(repository, "refs", revision);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.partial`, commit);
  await rename(`${path}.partial`, path);
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

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error
    ? `${error.message} (${error.cause.message || String(codeOf(error.cause))})`
    : error.message;
}
