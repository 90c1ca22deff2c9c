import { describe, expect, it } from "vitest";
import { randomModel, tinyLlama } from "../../tests/helpers/tiny-model.ts";
import { graph } from "../graph/index.ts";
import { attach } from "./attach.ts";
import type { InPlace } from "./in-place.ts";
import { chooseMethod } from "./table.ts";

async function attached(
  inPlace: Partial<InPlace>,
  config: object = {},
  method = "lora",
): Promise<ReturnType<typeof attach>> {
  const model = await randomModel({ ...tinyLlama, attention_bias: true, ...config });
  return attach(model.loss().outputs, {
    choice: chooseMethod(method, {}, {}, inPlace),
    targets: ["q_proj", "lm_head"],
    outputModule: "lm_head",
    training: true,
  });
}

const inPlaceNames = ({ trainables }: ReturnType<typeof attach>): readonly string[] =>
  trainables.filter(({ inPlace }) => inPlace).map(({ value }) => value.name);

describe("weights trained in place", () => {
  it("are all of a module, which then has no adapter", async () => {
    const result = await attached({ modules: ["lm_head", "layers.1.mlp"] });
    expect(inPlaceNames(result)).toEqual([
      "model.layers.1.mlp.gate_proj.weight",
      "model.layers.1.mlp.up_proj.weight",
      "model.layers.1.mlp.down_proj.weight",
      "lm_head.weight",
    ]);
    expect(result.trainables.some(({ value }) => value.name.startsWith("lm_head.lora"))).toBe(false);
    // What is trained is no weight of the graph any more.
    const weights = graph({ outputs: result.outputs }).weights.map(({ name }) => name);
    expect(weights).toContain("model.layers.0.mlp.up_proj.weight");
    expect(weights).not.toContain("model.layers.1.mlp.up_proj.weight");
  });

  it("are biases of adapted modules or of all", async () => {
    expect(inPlaceNames(await attached({ biases: "adapted" }))).toEqual(
      [0, 1].map((i) => `model.layers.${i}.self_attn.q_proj.bias`),
    );
    expect(inPlaceNames(await attached({ biases: "all" }))).toHaveLength(8);
  });

  it("of tied embeddings are those of the module that is named", async () => {
    const result = await attached({ modules: ["embed_tokens"] }, { tie_word_embeddings: true });
    expect(inPlaceNames(result)).toEqual(["model.embed_tokens.weight"]);
    const { weights, parameters } = graph({ outputs: result.outputs });
    expect(weights.map(({ name }) => name)).toContain("lm_head.weight");
    expect(parameters.map(({ name }) => name)).toContain("model.embed_tokens.weight");
  });

  it("are refused where there are none, or everything is trained anyway", async () => {
    await expect(attached({ modules: ["lm_haed", "norm"] })).rejects.toMatchObject({
      code: "unknown-target-modules",
      message: expect.stringContaining('"lm_haed" (nearest: lm_head)'),
    });
    await expect(attached({ biases: "all" }, { attention_bias: false })).rejects.toMatchObject({ code: "bad-option" });
    await expect(attached({ modules: ["lm_head"] }, {}, "full")).rejects.toMatchObject({ code: "bad-option" });
  });
});
