import { describe, expect, it } from "vitest";
import { randomAdapter } from "../../tests/helpers/random-adapter.ts";
import { randomModel } from "../../tests/helpers/tiny-model.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { type Adapter, chooseMethod, type RunRecord } from "../methods/index.ts";
import { bibtex, readAdapter, writeAdapter, writeSafetensorsFolder } from "./index.ts";

const run: RunRecord = {
  step: 40,
  steps: 60,
  ended: "early-stop",
  best: { step: 30, loss: 1.23456 },
  facts: { learningRate: 2e-4, schedule: "linear", optimizer: "adamw", trainData: "ab12", validationData: "cd34" },
  cites: [
    { title: "Decoupled Weight Decay Regularization", authors: "Loshchilov, Hutter", year: 2019, arxiv: "1711.05101" },
  ],
};

async function written(
  form: "peft" | "safetensors",
  base: Readonly<Record<string, string>>,
): Promise<{ card: string; adapter: Adapter }> {
  const storage = memoryStorage();
  for (const [name, text] of Object.entries(base)) await storage.write(`base/${name}`, text);
  const model = { ...(await randomModel()), folder: "base" };
  const adapter = { ...randomAdapter(model, chooseMethod("lora", { rank: 2 })), run };
  const options = { baseModel: "someone/tiny" };
  await writeAdapter(storage, "runs/mine", model, adapter, options);
  const again = await readAdapter(storage, "runs/mine", model);
  if (form === "safetensors") await writeSafetensorsFolder(storage, "merged", model, { ...options, adapter: again });
  const folder = form === "peft" ? "runs/mine" : "merged";
  return { card: new TextDecoder().decode(await storage.read(`${folder}/README.md`)), adapter: again };
}

describe("a model card", () => {
  it("says how an adapter came to be: settings, data, result, licence and whom to cite", async () => {
    const { card, adapter } = await written("peft", { "README.md": "---\nlicense: apache-2.0\n---\n# Tiny\n" });
    expect(adapter.run).toEqual(run);
    expect(card).toMatch(/^---\nbase_model: someone\/tiny\nlibrary_name: peft\nlicense: apache-2\.0\n/);
    expect(card).toContain("# mine\n\nMade with Scion from [someone/tiny](https://huggingface.co/someone/tiny).");
    expect(card).toContain("40 of 60 updates (early-stop). Lowest validation loss: 1.2346, at update 30.");
    expect(card).toContain("| learningRate | 0.0002 |\n| schedule | linear |\n| optimizer | adamw |\n\n## Data");
    expect(card).toContain("`ab12`; of those held back: `cd34`");
    expect(card).toContain("The base model is under `apache-2.0`");
    expect(card).toContain("eprint        = {2106.09685}");
    expect(card).toContain("author        = {Loshchilov and Hutter}");
  });

  it("goes on to what is made of the adapter later, and says where no licence is stated", async () => {
    const { card } = await written("safetensors", {});
    expect(card).toContain("library_name: transformers");
    expect(card).not.toContain("license:");
    expect(card).toContain("40 of 60 updates");
    expect(card).toContain("state no licence");
  });
});

it("a citation becomes BibTeX", () => {
  const cited = {
    title: "LoRA: Low-Rank Adaptation",
    authors: "Edward J. Hu and Yelong Shen",
    year: 2021,
    arxiv: "2106.09685",
  };
  expect(bibtex(cited)).toBe(
    [
      "@misc{hu2021lora,",
      "  title         = {{LoRA: Low-Rank Adaptation}},",
      "  author        = {Edward J. Hu and Yelong Shen},",
      "  year          = {2021},",
      "  eprint        = {2106.09685},",
      "  archivePrefix = {arXiv}",
      "}",
    ].join("\n"),
  );
});
