import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What the fake hub holds and how it misbehaves; tests change it between calls. */
export interface FakeHub {
  readonly url: string;
  /** Every request, in order: where it arrived, its path, the range asked for, and the token it carried. */
  readonly requests: { at: "hub" | "store"; path: string; range?: string; token?: string }[];
  readonly files: Map<string, Uint8Array>;
  readonly commit: string;
  gated: boolean;
  /** Close the connection of a large file after this many bytes of each answer. */
  dropAfterBytes: number | undefined;
  /** Send these bytes in place of a large file's. */
  tamper: ((bytes: Uint8Array) => Uint8Array) | undefined;
  /** Statuses, with headers, that the next requests get in place of an answer, wherever they arrive. */
  readonly refusals: { readonly status: number; readonly headers?: Readonly<Record<string, string>> }[];
  /** Send this many bytes of a large file, and then nothing. */
  stallAfterBytes: number | undefined;
  /** Send a large file slowly: these many bytes every 20 ms. */
  bytesEachTime: number | undefined;
  /** A large file from another place than the one asked for. */
  otherRange: boolean;
  /** Headers of the list of files, or of the model: a link to more, a redirect. */
  listHeaders: Readonly<Record<string, string>>;
  infoRedirect: string | undefined;
  readonly storeUrl: string;
  close(): Promise<void>;
}

/**
 * A server that answers as the hub does for the one repository `owner/model`: model information, file tree, small
 * files from its own origin, large ones (safetensors) through a redirect to a store on another origin, with ranges.
 */
export async function startFakeHub(files: Readonly<Record<string, string | Uint8Array>>): Promise<FakeHub> {
  const store = await listen((request, response) => answerStore(hub, request, response));
  const main = await listen((request, response) => answerHub(hub, store.url, request, response));
  const hub: FakeHub = {
    url: main.url,
    requests: [],
    files: new Map(Object.entries(files).map(([name, content]) => [name, Buffer.from(content)])),
    commit: createHash("sha1")
      .update(JSON.stringify(Object.keys(files)))
      .digest("hex"),
    gated: false,
    dropAfterBytes: undefined,
    tamper: undefined,
    refusals: [],
    stallAfterBytes: undefined,
    bytesEachTime: undefined,
    otherRange: false,
    listHeaders: {},
    infoRedirect: undefined,
    storeUrl: store.url,
    close: async () => {
      for (const { server } of [store, main]) {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      }
    },
  };
  return hub;
}

const isLarge = (name: string): boolean => name.endsWith(".safetensors");

function answerHub(hub: FakeHub, storeUrl: string, request: IncomingMessage, response: ServerResponse): void {
  const path = record(hub, "hub", request);
  if (refused(hub, response)) return;
  const fail = (status: number, code: string): void => {
    response.writeHead(status, { "Content-Type": "application/json", "X-Error-Code": code });
    response.end(JSON.stringify({ error: code }));
  };
  const json = (value: unknown): void => {
    const headers = { "Content-Type": "application/json", ...(Array.isArray(value) ? hub.listHeaders : {}) };
    response.writeHead(200, headers).end(JSON.stringify(value));
  };
  const [, name, kind, revision] = /^\/api\/models\/([\w-]+\/[\w-]+)\/(revision|tree)\/([^/]+)/.exec(path) ?? [];
  const [, resolved, file] = /^\/([\w-]+\/[\w-]+)\/resolve\/[^/]+\/(.+)$/.exec(path) ?? [];
  const content = hub.files.get(decodeURIComponent(file ?? ""));
  if ((name ?? resolved) !== "owner/model") fail(401, "RepoNotFound");
  else if (hub.gated && request.headers.authorization !== "Bearer hf_good") fail(401, "GatedRepo");
  else if (file !== undefined && content === undefined) fail(404, "EntryNotFound");
  else if (file !== undefined && isLarge(file)) response.writeHead(302, { Location: `${storeUrl}/${file}` }).end();
  else if (file !== undefined) response.writeHead(200).end(content);
  else if (revision !== "main" && revision !== hub.commit) fail(404, "RevisionNotFound");
  else if (kind === "revision" && hub.infoRedirect) response.writeHead(302, { Location: hub.infoRedirect }).end();
  else if (kind === "revision") json({ id: "owner/model", sha: hub.commit });
  else json(treeOf(hub, decodeURIComponent(/\/tree\/[^/]+\/([^?]*)/.exec(path)?.[1] ?? "")));
}

/** What stands in a folder of the repository itself, as the hub lists it. */
function treeOf(hub: FakeHub, folder: string): readonly object[] {
  const start = folder === "" ? "" : `${folder}/`;
  const inside = [...hub.files].filter(([path]) => path.startsWith(start));
  const files = inside.filter(([path]) => !path.slice(start.length).includes("/"));
  const folders = new Set(
    inside.flatMap(([path]) =>
      path.slice(start.length).includes("/") ? [start + (path.slice(start.length).split("/")[0] ?? "")] : [],
    ),
  );
  return [
    ...[...folders].map((path) => ({ type: "directory", path, oid: "0".repeat(40), size: 0 })),
    ...files.map(([path, content]) => treeEntry(path, content)),
  ];
}

function treeEntry(path: string, content: Uint8Array): object {
  const oid = createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
  const sha256 = createHash("sha256").update(content).digest("hex");
  const lfs = { oid: sha256, size: content.length, pointerSize: 130 };
  return { type: "file", path, size: content.length, oid, ...(isLarge(path) ? { lfs } : {}) };
}

function answerStore(hub: FakeHub, request: IncomingMessage, response: ServerResponse): void {
  const path = record(hub, "store", request);
  if (refused(hub, response)) return;
  const stored = hub.files.get(path.slice(1)) ?? new Uint8Array();
  const content = hub.tamper?.(stored) ?? stored;
  const [, start] = /^bytes=(\d+)-$/.exec(request.headers.range ?? "") ?? [];
  const part = content.subarray(Number(start ?? 0));
  if (Number(start ?? 0) > content.length) {
    response.writeHead(416).end();
    return;
  }
  const range = `bytes ${hub.otherRange ? 0 : start}-${content.length - 1}/${content.length}`;
  response.writeHead(start === undefined ? 200 : 206, {
    "Content-Length": part.length,
    ...(start === undefined ? {} : { "Content-Range": range }),
  });
  if (hub.stallAfterBytes !== undefined) response.write(part.subarray(0, hub.stallAfterBytes));
  else if (hub.bytesEachTime !== undefined) drip(response, part, hub.bytesEachTime);
  else if (hub.dropAfterBytes === undefined || hub.dropAfterBytes >= part.length) response.end(part);
  else response.write(part.subarray(0, hub.dropAfterBytes), () => setTimeout(() => response.destroy(), 20));
}

function refused({ refusals }: FakeHub, response: ServerResponse): boolean {
  const next = refusals.shift();
  if (next) response.writeHead(next.status, { "Content-Type": "application/json", ...next.headers }).end("{}");
  return next !== undefined;
}

function drip(response: ServerResponse, content: Uint8Array, bytes: number): void {
  let sent = 0;
  const timer = setInterval(() => {
    response.write(content.subarray(sent, sent + bytes));
    sent += bytes;
    if (sent < content.length) return;
    clearInterval(timer);
    response.end();
  }, 20);
  response.on("close", () => clearInterval(timer));
}

function record(hub: FakeHub, at: "hub" | "store", request: IncomingMessage): string {
  const path = new URL(request.url ?? "/", "http://localhost").pathname;
  const { range, authorization } = request.headers;
  hub.requests.push({ at, path, ...(range ? { range } : {}), ...(authorization ? { token: authorization } : {}) });
  return path;
}

async function listen(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ readonly server: Server; readonly url: string }> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}
