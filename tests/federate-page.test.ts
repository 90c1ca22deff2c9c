import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  createFederation,
  type FederationChoice,
  inviteToFederation,
  loadClients,
  loadModel,
  openClientTransport,
  openCoordinatorTransport,
  serveFederation,
  simulateFederation,
} from "../src/index.ts";
import { storageConformance } from "../src/io/storage.conformance.ts";
import type { Storage } from "../src/io/storage.ts";
import { natsConnect, nodePlatform } from "../src/runtime/node.ts";
import { unpackError } from "../src/runtime/port.ts";
import type { FederatePage, Tuned } from "./federate-page.browser.ts";
import { launchChromium } from "./helpers/chromium.ts";
import { root, startScion } from "./helpers/cli.ts";
import {
  freePort,
  natsServer,
  natsSettings,
  type RunningNats,
  readText,
  startNats,
  withoutNats,
} from "./helpers/nats-server.ts";
import { servePage } from "./helpers/serve.ts";

declare const scion: FederatePage; // in the page

const browser: Browser | undefined = await launchChromium();
if (browser === undefined) console.warn("No Chromium was found: the tests in a page are skipped.");
const source = `${root}assets/quickstart/model`;
let served: Awaited<ReturnType<typeof servePage>>;
const errors: string[] = [];

/** A tab with files of its own. */
async function openTab(): Promise<Page> {
  const page = await (browser as Browser).newPage(); // these suites are skipped without one
  page.on("pageerror", (error) => errors.push(error.message));
  await show(page);
  return page;
}

async function show(page: Page): Promise<void> {
  await page.goto(served.url);
  await page.addScriptTag({ url: "/page.js", type: "module" });
}

beforeAll(async () => {
  if (browser) served = await servePage({ page: "tests/federate-page.browser.ts" }, { model: source });
});
afterAll(async () => {
  await browser?.close();
  await served?.close();
});

describe.skipIf(browser === undefined)("the origin-private file system", () => {
  let page: Page;
  let folders = 0;
  beforeAll(async () => {
    page = await openTab();
  });
  afterAll(() => page.close());

  storageConformance("opfs", async () => ({ storage: storageIn(page, `root-${folders++}`), root: "root" }));
});

/** A storage whose files are in a page. */
function storageIn(page: Page, at: string): Storage {
  const call = async (
    method: Parameters<FederatePage["storage"]>[1],
    ...args: readonly unknown[]
  ): Promise<unknown> => {
    const sent = args.map((each) => (each instanceof Uint8Array ? { bytes: [...each] } : each));
    const answer = await page.evaluate(([folder, name, given]) => scion.storage(folder, name, given), [
      at,
      method,
      sent,
    ] as const);
    if ("error" in answer) throw unpackError(answer.error);
    return "bytes" in answer ? Uint8Array.from(answer.bytes) : answer.value;
  };
  const on =
    (method: Parameters<FederatePage["storage"]>[1]) =>
    (...args: readonly unknown[]): Promise<never> =>
      call(method, ...args) as Promise<never>; // what the method of that name gives
  const whole = async (content: Parameters<Storage["write"]>[1]): Promise<string | Uint8Array> => {
    if (typeof content === "string" || content instanceof Uint8Array) return content;
    const bytes: number[] = [];
    for await (const chunk of content) bytes.push(...chunk);
    return Uint8Array.from(bytes);
  };
  return {
    ...{ read: (path, range) => on("read")(path, range), sizeBytes: on("sizeBytes"), list: on("list") },
    ...{ stamp: on("stamp"), append: on("append"), rename: on("rename"), remove: on("remove"), prune: on("prune") },
    ...{ resolve: on("resolve"), fixed: on("fixed") },
    write: async (path, content) => on("write")(path, await whole(content)),
    lock: async (path) => {
      const number = await on("lock")(path);
      return { release: () => on("release")(number) };
    },
  };
}

const missing = browser === undefined ? "no Chromium" : natsServer === undefined ? withoutNats : undefined;

/** The coordinator, two tabs, a client in a process of its own, and one that sends garbage. */
describe.skipIf(missing !== undefined)(`a federation with tabs as clients (${missing ?? natsServer})`, () => {
  let folder: string;
  let server: RunningNats;
  const at = (path: string): string => join(folder, path);
  const names = ["ana", "ben", "cy"];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-federate-page-"));
    const settings = await natsSettings(at("fed"));
    const sockets = `127.0.0.1:${await freePort()}`;
    await createFederation(nodePlatform.storage, at("fed"), {
      ...{ run: "shoot", listen: settings.listen, addresses: [`nats://${settings.listen}`, `ws://${sockets}`] },
      websocket: { listen: sockets, origins: [new URL(served.url).origin] },
    });
    for (const name of [...names, "mallory"]) {
      const invitation = await inviteToFederation(nodePlatform.storage, at("fed"), name);
      await writeFile(at(`${name}.json`), JSON.stringify(invitation));
    }
    server = await startNats(at("fed"), settings, readText(at("fed/nats.conf")));
  });
  afterAll(async () => {
    await server?.kill();
    await rm(folder, { recursive: true, force: true });
  });

  it("comes to what the simulation comes to, though a client is killed, a tab is reloaded, and one sends garbage", async () => {
    const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
    const own = { ana: rows.slice(0, 8), ben: rows.slice(8, 14), cy: rows.slice(14, 24) };
    for (const [name, lines] of Object.entries(own)) await writeFile(at(`${name}.jsonl`), lines.join("\n"));
    const choice: FederationChoice = {
      ...{ rounds: 2, localSteps: 2, batchSize: 2, learningRate: 0.1, seed: 3 },
      ...{ methodOptions: { rank: 2 }, targetModules: ["q_proj"] },
    };
    const deviceOptions = { worker: false, threads: 1 } as const;
    const model = await loadModel(source, { platform: nodePlatform });
    const reach = { connect: natsConnect };

    const transport = await openCoordinatorTransport(nodePlatform.storage, at("fed"), reach);
    const asked: number[] = [];
    const serving = serveFederation(model, {
      ...{ ...choice, transport, run: "shoot", clients: names.length, deviceOptions },
      onEvent: (event) => event.kind === "asked" && asked.push(event.round),
    });
    const mallory = await openClientTransport(nodePlatform.storage, at("m"), { file: at("mallory.json") }, reach);
    await mallory.publish({ kind: "join", id: "mallory", body: { protocol: 99 } });
    await mallory.publish({ kind: "upload", id: "garbage", body: { round: 0, base: "x", layers: "none" } });

    const joinIn = async (page: Page, name: "ana" | "ben"): Promise<ReturnType<FederatePage["join"]>> =>
      page.evaluate(([invitation, lines]) => scion.join(invitation, lines), [
        JSON.parse(readText(at(`${name}.json`))) as unknown,
        own[name].join("\n"),
      ] as const);
    const [first, second] = [await openTab(), await openTab()];
    const left = joinIn(first, "ana").catch(() => "gone with the page");
    await joined(first);
    await show(first); // its key, and with it the client, stays
    expect(await left).toBe("gone with the page");
    const tabs = Promise.all([joinIn(first, "ana"), joinIn(second, "ben")]);

    const join_ = ["federate join", "-m", source, "-d", at("cy.jsonl"), "--invite", at("cy.json"), "-o", at("of-cy")];
    const start = () => startScion(...join_, "--max-length", "48", "--threads", "1", "--json");
    const killed = start();
    await new Promise<void>((resolve) => {
      killed.child.stdout?.on("data", (text: Buffer) => String(text).includes('"joined"') && resolve());
    });
    killed.child.kill("SIGKILL");
    await killed.ended;
    const cy = await start().ended;
    expect(cy.code, cy.stderr).toBe(0);

    const result = await serving;
    expect([result.ended, asked]).toEqual(["finished", [0, 1]]);
    expect(result.history.map(({ clients }) => Object.keys(clients).sort())).toEqual([names, names]); // nothing lost
    const data = await loadClients(
      model,
      names.map((name) => at(`${name}.jsonl`)),
      {
        ...{ split: "files", maxLength: 48, validation: 0 },
      },
    );
    const { adapter } = await simulateFederation(model, data, { ...choice, deviceOptions });
    const expected = Object.fromEntries(
      [...adapter.parameters].map(([name, { data: values }]) => [name, [...values].map(Number)]),
    );
    const served_ = [...result.adapter.parameters].map(
      ([name, { data: values }]) => [name, [...values].map(Number)] as const,
    );
    // Pages compute in WebAssembly, which adds up in another order than Node's kernels.
    expect(furthest(Object.fromEntries(served_), expected)).toBeLessThan(5e-6);
    for (const tab of await tabs) {
      if (!("tuned" in tab)) throw unpackError(tab);
      expect(tab.ended).toBe("finished");
      expect(furthest(tab.tuned, Object.fromEntries(served_))).toBe(0);
    }
    expect(errors).toEqual([]);
    await mallory.close();
    await transport.close();
  });

  /** Resolved when the page has said who it is, for which it made its key. */
  const joined = async (page: Page): Promise<void> => {
    const storage = storageIn(page, "scion");
    while ((await storage.sizeBytes("mine/shoot.ana.key")) === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
});

/** How far a tensor is from what it should be, over its Euclidean length; the worst of all. */
function furthest(found: Tuned, expected: Tuned): number {
  expect(Object.keys(found).sort()).toEqual(Object.keys(expected).sort());
  const lengthOf = (values: readonly number[]): number => Math.hypot(...values);
  const each = Object.entries(expected).map(
    ([name, values]) => lengthOf(values.map((value, i) => value - (found[name]?.[i] ?? Number.NaN))) / lengthOf(values),
  );
  return Math.max(...each);
}
