import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AutoModelForCausalLM, env, Tensor } from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answered, answer } from "../bench/size/answer.ts";
import { greedy } from "../bench/size/greedy.ts";
import { answerInPage } from "../bench/size/page.ts";
import { unpackWeb } from "../bench/size/unpack-web.ts";
import { writeTransformersJsFolder } from "../src/export/index.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { openModel } from "../src/models/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { launchChromium } from "./helpers/chromium.ts";

/*
 * A model in 4 bits, as it goes into a page: what transformers.js makes of it in Node and in a page is what Scion makes of the
 * numbers that the files hold. `npm run bench:size` does the same with a model of a billion weights.
 */
const model = fileURLToPath(new URL("../assets/quickstart/model", import.meta.url));
const browser = await launchChromium();
if (browser === undefined) console.warn("No Chromium was found: exports are not loaded by a page.");

describe("a q4 export", () => {
  const count = 12;
  let root: string;
  let prompt: readonly number[];
  let expected: Pick<Answered, "ids" | "logits">;

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), "scion-page-"));
    const opened = await openModel(nodeStorage, model);
    await writeTransformersJsFolder(nodeStorage, join(root, "web"), opened, {
      baseModel: "quickstart",
      dtypes: ["q4"],
      externalDataBytes: 0,
      maxDataBytes: 400e3,
    });
    expect((await readdir(join(root, "web/onnx"))).length).toBeGreaterThan(2); // in pieces, as a large one
    await unpackWeb(join(root, "web"), model, join(root, "unpacked"));
    prompt = (await loadTokenizer(nodeStorage, model)).encode("Please remind me to");
    expected = await greedy(join(root, "unpacked"), prompt, count);
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    await rm(root, { recursive: true });
  });

  const check = ({ ids, logits }: Answered): void => {
    expect(ids).toEqual(expected.ids);
    expect(logits).toHaveLength(expected.logits.length);
    // Sums of products in another order, float32: a thousandth of the logits' own size is far more than that leaves.
    const largest = Math.max(...expected.logits.map(Math.abs));
    expect(Math.max(...logits.map((value, i) => Math.abs(value - (expected.logits[i] ?? 0))))).toBeLessThan(
      1e-4 * largest,
    );
  };

  it("says in transformers.js in Node what Scion says with the numbers it holds", async () => {
    env.allowRemoteModels = false;
    env.localModelPath = root;
    check(await answer({ AutoModelForCausalLM, Tensor }, { folder: "web", device: "cpu", dtype: "q4", prompt, count }));
  });

  it.skipIf(browser === undefined)("says the same in a page", async () => {
    if (browser === undefined) throw new Error("this test is skipped without a browser");
    const { peakBytes, ...answered } = await answerInPage(browser, root, { folder: "web", dtype: "q4", prompt, count });
    check(answered);
    if (process.platform === "linux") expect(peakBytes).toBeGreaterThan(50e6);
  });
});
