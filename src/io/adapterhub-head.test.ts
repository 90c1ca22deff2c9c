import { expect, test } from "vitest";
import { tensor } from "../graph/index.ts";
import { readHead, writeHead } from "./adapterhub-head.ts";
import { memoryStorage } from "./memory-storage.ts";
import type { Problem } from "./problems.ts";
import type { Storage } from "./storage.ts";

const config = JSON.stringify({
  config: null,
  label2id: { glad: 2, sad: 0, calm: 1 },
  model_class: "BertForSequenceClassification",
  num_labels: 3,
});
const weight = tensor("float32", [3, 2], [1, 2, 3, 4, 5, 6]);

async function headOf(storage: Storage): Promise<[Awaited<ReturnType<typeof readHead>>, Problem[]]> {
  const problems: Problem[] = [];
  return [await readHead(storage, "adapter", await storage.list("adapter"), problems), problems];
}

test("a head of transformers is read with its labels in the order of their numbers, and written as it was", async () => {
  const storage = memoryStorage();
  await writeHead(storage, "adapter", config, new Map([["classifier.weight", weight]]));
  const [head, problems] = await headOf(storage);
  expect(problems).toEqual([]);
  expect(head?.config).toBe(config);
  expect(head?.labels).toEqual(["sad", "calm", "glad"]);
  expect([...(head?.tensors.keys() ?? [])]).toEqual(["classifier.weight"]);
  expect(await head?.tensors.get("classifier.weight")?.read()).toEqual(weight);
});

test("a head that names no labels has none", async () => {
  const storage = memoryStorage();
  await writeHead(storage, "adapter", JSON.stringify({ config: null }), new Map([["lm_head.weight", weight]]));
  expect((await headOf(storage))[0]?.labels).toBeUndefined();
});

test("a head of AdapterHub's own is named among the problems", async () => {
  const storage = memoryStorage();
  const own = JSON.stringify({ config: { head_type: "classification" }, model_class: "BertAdapterModel" });
  await writeHead(storage, "adapter", own, new Map([["heads.mood.1.weight", weight]]));
  const [head, problems] = await headOf(storage);
  expect(head).toBeUndefined();
  expect(problems).toMatchObject([
    { code: "adapterhub-bad-adapter", what: expect.stringContaining('BertAdapterModel (head_type "classification")') },
  ]);
});

test("no head is none, a pickled one is refused, and weights without a configuration are too", async () => {
  const storage = memoryStorage();
  await storage.write("adapter/adapter_config.json", "{}");
  expect(await headOf(storage)).toEqual([undefined, []]);
  await storage.write("adapter/pytorch_model_head.bin", "");
  await expect(headOf(storage)).rejects.toMatchObject({ code: "pickle-refused" });
  const bare = memoryStorage();
  await writeHead(bare, "adapter", config, new Map([["classifier.weight", weight]]));
  await bare.remove("adapter/head_config.json");
  await expect(headOf(bare)).rejects.toMatchObject({ code: "file-not-found" });
});
