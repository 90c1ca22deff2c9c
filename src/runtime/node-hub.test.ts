import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type FakeHub, startFakeHub } from "../../tests/helpers/fake-hub.ts";
import { type HubSettings, hubSettings, parseHubId } from "./node-hub.ts";
import { findNodeModel } from "./node-models.ts";

const weights = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7) % 251);
let hub: FakeHub;
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-hub-"));
  hub = await startFakeHub({
    "config.json": '{"model_type": "llama"}',
    "tokenizer.json": "{}",
    "chat_template.jinja": "{{ messages }}",
    "model.safetensors": weights,
    "pytorch_model.bin": "pickle",
    "onnx/model.onnx": "graph",
    "README.md": "card",
  });
});
afterEach(async () => {
  await hub.close();
  await rm(folder, { recursive: true, force: true });
});

const settings = (more: Partial<HubSettings> = {}): HubSettings => ({
  hubUrl: hub.url,
  cacheDir: join(folder, "hub"),
  accessToken: undefined,
  offline: false,
  retryPauseMs: 1,
  stallMs: 10_000,
  ...more,
});

const find = (source = "owner/model", more: Partial<HubSettings> = {}): Promise<string> =>
  findNodeModel(source, {}, settings(more));

const code = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "found",
    (error: { code?: string }) => error.code ?? error,
  );

describe("a model named by its hub id", () => {
  it("is fetched into the cache that Python shares: only what a model needs, and nothing pickled", async () => {
    const found = await find();
    expect(found).toBe(join(folder, "hub", "models--owner--model", "snapshots", hub.commit));
    expect((await readdir(found)).sort()).toEqual([
      "chat_template.jinja",
      "config.json",
      "model.safetensors",
      "tokenizer.json",
    ]);
    expect(new Uint8Array(await readFile(join(found, "model.safetensors")))).toEqual(weights);
    expect(await readFile(join(folder, "hub/models--owner--model/refs/main"), "utf8")).toBe(hub.commit);
  });

  it("brings sentence-transformers' modules along, and what prepares images", async () => {
    const wanted = {
      "modules.json": "[]",
      "sentence_bert_config.json": "{}",
      "config_sentence_transformers.json": "{}",
      "preprocessor_config.json": "{}",
      "1_Pooling/config.json": '{"pooling_mode_cls_token": true}',
      "2_Dense/config.json": "{}",
      "2_Dense/model.safetensors": "weights of a Dense module",
    };
    for (const [name, content] of Object.entries(wanted)) hub.files.set(name, Buffer.from(content));
    hub.files.set("2_Dense/pytorch_model.bin", Buffer.from("pickle"));
    const found = await find();
    for (const [name, content] of Object.entries(wanted)) {
      expect(await readFile(join(found, name), "utf8")).toBe(content);
    }
    expect(await readdir(join(found, "2_Dense"))).toEqual(["config.json", "model.safetensors"]);
    expect(await readdir(found)).not.toContain("onnx");
  });

  it("is not fetched twice", async () => {
    const first = await find();
    hub.requests.length = 0;
    expect(await find()).toBe(first);
    expect(hub.requests.filter(({ path }) => path.includes("/resolve/") || path.endsWith(".safetensors"))).toEqual([]);
  });

  it("needs no request at all once a commit is named and cached", async () => {
    await find();
    hub.requests.length = 0;
    await find(`owner/model@${hub.commit}`);
    expect(hub.requests).toEqual([]);
  });

  it("tells how far a download is", async () => {
    const seen: number[] = [];
    await findNodeModel(
      "owner/model",
      {
        onDownload: ({ file, doneBytes, totalBytes }) => {
          if (file !== "model.safetensors") return;
          expect(totalBytes).toBe(weights.length);
          seen.push(doneBytes);
        },
      },
      settings(),
    );
    expect(seen.at(-1)).toBe(weights.length);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });

  it("goes on where a dropped connection stopped", async () => {
    hub.dropAfterBytes = 130_000;
    const found = await find();
    expect(new Uint8Array(await readFile(join(found, "model.safetensors")))).toEqual(weights);
    const starts = hub.requests.filter(({ at }) => at === "store").map(({ range }) => range);
    expect(starts.length).toBeGreaterThan(1);
    expect(starts[0]).toBeUndefined();
    expect(starts[1]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it("goes on where a killed process stopped", async () => {
    hub.dropAfterBytes = 0;
    expect(await code(find())).toBe("hub-unreachable");
    const blobs = join(folder, "hub/models--owner--model/blobs");
    const partial = (await readdir(blobs)).find((name) => name.endsWith(".incomplete"));
    await writeFile(join(blobs, partial ?? ""), weights.subarray(0, 100_000));
    hub.dropAfterBytes = undefined;
    hub.requests.length = 0;
    const found = await find();
    expect(hub.requests.filter(({ at }) => at === "store").map(({ range }) => range)).toEqual(["bytes=100000-"]);
    expect(new Uint8Array(await readFile(join(found, "model.safetensors")))).toEqual(weights);
  });

  it("is refused when its bytes are not what the hub stated, and not kept", async () => {
    hub.tamper = (bytes) => bytes.map((byte, index) => (index === 5 ? byte ^ 1 : byte));
    expect(await code(find())).toBe("hub-interrupted");
    hub.tamper = (bytes) => Buffer.concat([bytes, bytes]);
    expect(await code(find())).toBe("hub-interrupted");
    hub.tamper = undefined;
    const found = await find();
    expect(new Uint8Array(await readFile(join(found, "model.safetensors")))).toEqual(weights);
  });

  it("is fetched anew where its copy was damaged since, named by revision or by commit, and never used", async () => {
    const found = await find();
    const byte = async (name: string): Promise<void> => {
      const bytes = Buffer.from(await readFile(join(found, name)));
      bytes[bytes.length - 3] = (bytes[bytes.length - 3] ?? 0) ^ 1;
      await writeFile(join(found, name), bytes); // the size stays
    };
    const before = new Map<string, Buffer>();
    for (const name of ["model.safetensors", "config.json"]) before.set(name, await readFile(join(found, name)));
    for (const name of before.keys()) {
      for (const source of ["owner/model", `owner/model@${hub.commit}`]) {
        await byte(name);
        expect(await code(find(source, { offline: true }))).toBe("hub-damaged");
        await find(source);
        for (const [file, content] of before) expect((await readFile(join(found, file))).equals(content)).toBe(true);
      }
    }
    // What is remembered of them is no more than that: damaged, they are looked at again.
    const remembered = join(folder, "hub/models--owner--model/blobs/.scion-verified.json");
    await writeFile(remembered, (await readFile(remembered, "utf8")).slice(0, 40));
    hub.requests.length = 0;
    await find(`owner/model@${hub.commit}`);
    expect(hub.requests).toEqual([]);
    await byte("config.json");
    expect(await code(find("owner/model", { offline: true }))).toBe("hub-damaged");
  });

  it("clears what processes that are gone have left in the cache, and locks nobody asks for", async () => {
    const found = await find();
    const repository = join(folder, "hub/models--owner--model");
    const id = "01234567-89ab-cdef-0123-456789abcdef";
    const gone = JSON.stringify({ pid: 2 ** 22 + 1, started: "1", host: hostname(), place: "", id });
    const strays = [`blobs/x.lock.${id}`, "blobs/x.lock", `refs/.main.00000000-1-1-${id}.partial`];
    strays.push(join("snapshots", hub.commit, `.a.00000000-1-1-${id}.partial`));
    for (const name of strays) {
      await writeFile(join(repository, name), name.includes(".lock") ? gone : "half");
      const then = new Date(Date.now() - 31 * 60_000);
      await utimes(join(repository, name), then, then);
    }
    await find();
    for (const name of strays) expect(existsSync(join(repository, name)), name).toBe(false);
    expect(existsSync(join(found, "config.json"))).toBe(true);
  });

  it("is not fetched without access, and with a token it is", async () => {
    hub.gated = true;
    expect(await code(find())).toBe("hub-gated");
    expect(await code(find("owner/model", { accessToken: "hf_bad" }))).toBe("hub-gated");
    expect(await code(find("owner/model", { accessToken: "hf_good" }))).toBe("found");
  });

  it("sends the token to the hub only, never to where it redirects", async () => {
    await find("owner/model", { accessToken: "hf_good" });
    expect(hub.requests.filter(({ at }) => at === "hub").every(({ token }) => token === "Bearer hf_good")).toBe(true);
    expect(hub.requests.filter(({ at }) => at === "store").map(({ token }) => token)).toEqual([undefined]);
  });

  it("must exist, at that revision, with the files that a model needs", async () => {
    expect(await code(find("owner/other"))).toBe("hub-not-found");
    expect(await code(find("owner/model@v9"))).toBe("hub-not-found");
    hub.files.delete("model.safetensors");
    await expect(find()).rejects.toThrow(/holds no model\.safetensors.*\n.*\n.*pickled/);
    hub.files.delete("config.json");
    expect(await code(find())).toBe("hub-file-missing");
  });

  it("comes from the cache when the hub does not answer, or must not be asked", async () => {
    expect(await code(find("owner/model", { offline: true }))).toBe("hub-unreachable");
    expect(await code(find("owner/model", { hubUrl: "http://127.0.0.1:9" }))).toBe("hub-unreachable");
    const found = await find();
    hub.requests.length = 0;
    expect(await find("owner/model", { offline: true })).toBe(found);
    expect(await find("owner/model", { hubUrl: "http://127.0.0.1:9" })).toBe(found);
    expect(hub.requests).toEqual([]);
    await rm(join(found, "model.safetensors"));
    expect(await code(find("owner/model", { offline: true }))).toBe("hub-unreachable");
  });
});

describe("a hub that has its days", () => {
  const retries = (): number => hub.requests.filter(({ at }) => at === "store").length;

  it.each([429, 500, 503, 408])("is asked again after %i, wherever it answers so", async (status) => {
    for (let request = 0; request < 7; request++) hub.refusals.push({ status }, { status });
    hub.refusals.length = 4; // more in a row are given up
    expect(await code(find())).toBe("found");
    expect(hub.refusals).toEqual([]);
  });

  it("is given up after some tries, with what it answered", async () => {
    for (let request = 0; request < 20; request++) hub.refusals.push({ status: 503 });
    await expect(find()).rejects.toMatchObject({ code: "hub-unreachable", what: expect.stringContaining("503") });
    expect(hub.requests.length).toBe(5);
  });

  it("is not asked before it says, in seconds or as a date, and not for hours", async () => {
    const started = performance.now();
    hub.refusals.push({ status: 429, headers: { "Retry-After": "1" } });
    await find();
    expect(performance.now() - started).toBeGreaterThan(990);
    await rm(join(folder, "hub"), { recursive: true });
    const soon = new Date(Date.now() + 2500);
    hub.refusals.push({ status: 503, headers: { "Retry-After": soon.toUTCString() } });
    await find();
    expect(Date.now()).toBeGreaterThan(soon.getTime() - 1000); // dates have whole seconds
    await rm(join(folder, "hub"), { recursive: true });
    hub.refusals.push({ status: 429, headers: { "Retry-After": "7200" } });
    await expect(find()).rejects.toMatchObject({ code: "hub-unreachable", what: expect.stringContaining("7200") });
  });

  it("is given up when it stalls, in an answer or in a file, or sends next to nothing", async () => {
    hub.stallAfterBytes = 10_000;
    await expect(find("owner/model", { stallMs: 200 })).rejects.toMatchObject({
      code: "hub-unreachable",
      what: expect.stringContaining("sent nothing"),
    });
    expect(retries()).toBeGreaterThan(2);
    hub.stallAfterBytes = undefined;
    hub.bytesEachTime = 3;
    await expect(find("owner/model", { stallMs: 200 })).rejects.toMatchObject({
      code: "hub-unreachable",
      what: expect.stringContaining("next to nothing"),
    });
    hub.bytesEachTime = 30_000;
    expect(await code(find("owner/model", { stallMs: 200 }))).toBe("found");
  });

  it("is given up when every connection brings a byte", async () => {
    hub.dropAfterBytes = 1;
    expect(await code(find())).toBe("hub-unreachable");
    expect(retries()).toBe(5);
  });

  it("may change a file while it is fetched, or send another part: it is fetched anew", async () => {
    const blobs = join(folder, "hub/models--owner--model/blobs");
    for (const damage of ["another day's bytes", "another part", "more than there is"]) {
      await rm(join(folder, "hub"), { recursive: true, force: true });
      hub.dropAfterBytes = 0;
      expect(await code(find())).toBe("hub-unreachable");
      hub.dropAfterBytes = undefined;
      const [name = ""] = (await readdir(blobs)).filter((one) => one.endsWith(".incomplete"));
      const length = damage === "more than there is" ? weights.length - 1 : 100_000;
      await writeFile(join(blobs, name), new Uint8Array(length).fill(7));
      hub.otherRange = damage === "another part";
      expect(await code(find()), damage).toBe("found");
      hub.otherRange = false;
    }
  });

  it("gets the token, and nobody else does: not where it redirects, nor where it says more is", async () => {
    hub.listHeaders = { Link: `<${hub.storeUrl}/more>; rel="next"` };
    expect(await code(find("owner/model", { accessToken: "hf_good" }))).toBe("hub-unreachable");
    hub.listHeaders = {};
    hub.infoRedirect = `${hub.storeUrl}/info`;
    expect(await code(find("owner/model", { accessToken: "hf_good" }))).toBe("hub-unreachable");
    hub.infoRedirect = "file:///etc/passwd";
    expect(await code(find("owner/model", { accessToken: "hf_good" }))).toBe("hub-interrupted");
    const stored = hub.requests.filter(({ at }) => at === "store");
    expect(stored.map(({ path }) => path)).toEqual(expect.arrayContaining(["/more", "/info"]));
    expect(stored.map(({ token }) => token).filter(Boolean)).toEqual([]);
    hub.infoRedirect = `${hub.url}/api/models/owner/model/revision/main`; // to itself, without an end
    expect(await code(find())).toBe("hub-interrupted");
  });
});

describe("a file that two want at once", () => {
  it("is fetched once, and both have it", async () => {
    hub.bytesEachTime = 50_000;
    const seen: number[] = [];
    const onDownload = ({ doneBytes }: { readonly doneBytes: number }): void => void seen.push(doneBytes);
    const [a, b] = await Promise.all([find(), findNodeModel("owner/model", { onDownload }, settings())]);
    expect(a).toBe(b);
    expect(hub.requests.filter(({ at }) => at === "store").length).toBe(1);
    expect(seen.length).toBeGreaterThan(0);
    expect(new Uint8Array(await readFile(join(a, "model.safetensors")))).toEqual(weights);
    const left = await readdir(join(folder, "hub"), { recursive: true });
    expect(left.filter((name) => /lock|partial|incomplete/.test(name))).toEqual([]);
  });

  it("is fetched by the second when the first is gone, and refused when the first brings nothing", async () => {
    hub.dropAfterBytes = 0;
    await code(find());
    hub.dropAfterBytes = undefined;
    const blobs = join(folder, "hub/models--owner--model/blobs");
    const [partial = ""] = (await readdir(blobs)).filter((name) => name.endsWith(".incomplete"));
    const lock = join(blobs, `${partial.split(".")[0]}.lock`);
    const holder = { started: "1", host: hostname(), id: "x" };
    await writeFile(lock, JSON.stringify({ pid: 2 ** 22 + 1, ...holder }));
    expect(await code(find())).toBe("found");
    await rm(join(blobs, partial.split(".")[0] ?? ""));
    await writeFile(lock, JSON.stringify({ pid: process.pid, ...holder, started: "" }));
    expect(await code(find("owner/model", { stallMs: 50 }))).toBe("in-use");
  });
});

describe("what a model may be called", () => {
  it("takes a folder before an id", async () => {
    await writeFile(join(folder, "config.json"), "{}");
    expect(await find(folder)).toBe(folder);
    expect(await code(find(join(folder, "config.json")))).toBe("model-not-found");
    expect(await code(find("./nowhere"))).toBe("model-not-found");
    expect(hub.requests).toEqual([]);
  });

  it("reads ids and revisions, and no paths", () => {
    expect(parseHubId("a/b")).toEqual({ name: "a/b", revision: "main" });
    expect(parseHubId("a/b.c@refs/pr/1")).toEqual({ name: "a/b.c", revision: "refs/pr/1" });
    for (const path of ["a", "a/b/c", "../a", "a/..", "a/b@../../c", "/a/b", "a/.b"])
      expect(parseHubId(path)).toBe(undefined);
  });

  it("follows the variables that the Python libraries follow", async () => {
    const read = await hubSettings({ HF_HOME: "/h", HF_ENDPOINT: "http://hub/", HF_TOKEN: " t ", HF_HUB_OFFLINE: "1" });
    expect(read).toMatchObject({ hubUrl: "http://hub", cacheDir: join("/h", "hub"), accessToken: "t", offline: true });
    expect((await hubSettings({ HF_HOME: "/h", HF_HUB_CACHE: "/c" })).cacheDir).toBe("/c");
  });
});
