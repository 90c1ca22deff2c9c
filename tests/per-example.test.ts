import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createRng } from "../src/linalg/index.ts";
import { chooseMethod, methods, sublayerTargets } from "../src/methods/index.ts";
import { openModel, type PretrainedModel, supportedModelTypes } from "../src/models/index.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import type { ExampleKind, TokenizedExample } from "../src/train/data/index.ts";
import { chooseObjective, objectives } from "../src/train/objectives/index.ts";
import { tasks } from "../src/train/tasks/index.ts";
import { openExampleGradients, type Tuned } from "./helpers/example-gradients.ts";
import { golden } from "./helpers/golden.ts";
import { packFolder } from "./helpers/packed-model.ts";
import { tinyConfig } from "./helpers/tiny-configs.ts";
import { randomModel, tinyLlama } from "./helpers/tiny-model.ts";

/*
 * A law: for every method, and for every objective that has gradients by example, one pass over a batch gives what a
 * backward pass for every example gives, in float64. A method or an objective without a case fails.
 */

/** Some examples of uneven length, with whatever is asked of them. */
function examplesOf(model: PretrainedModel, kind: ExampleKind, count: number): readonly TokenizedExample[] {
  const rng = createRng(3, "examples");
  const { reads, sizes, labels } = model;
  const range = { tokens: sizes.vocabSize, characters: 128, pixels: 1 << 24 }[reads.kind];
  const text = (): TokenizedExample => {
    const length = reads.kind === "pixels" ? reads.length : 3 + rng.integer(5);
    return {
      inputIds: Int32Array.from({ length }, () => rng.integer(range)),
      trained: Uint8Array.from({ length }, (_, i) => Number(i > 0)),
      line: 1,
    };
  };
  const answersOf = ({ inputIds }: TokenizedExample): number[] => {
    const size = labels?.length ?? 1;
    if (kind === "label") return [rng.integer(size)];
    if (kind === "tags") return Array.from(inputIds, (_, i) => (i % 3 === 0 ? -1 : rng.integer(size)));
    if (kind === "labels") return Array.from({ length: size }, () => rng.integer(2));
    return Array.from({ length: kind === "score" ? size : 1 }, () => rng.normal());
  };
  return Array.from({ length: count }, (_, line) => {
    const example = text();
    const against = ["pair", "texts", "scored-texts", "target"].includes(kind) ? { against: [text()] } : {};
    return { ...example, answers: answersOf(example), ...against, line: line + 1 };
  });
}

/** The largest difference of sums and lengths, relative to the largest element and length. */
async function compare(
  tuned: Tuned,
): Promise<{ readonly off: number; readonly inFactors: number; readonly names: readonly string[] }> {
  const kind = tuned.objective.objective.learnsFrom;
  const examples = examplesOf(tuned.model, kind, 5);
  const mask = [1, 0, 1, 1, 1];
  const opened = await openExampleGradients(tuned);
  const each = opened.oneByOne(examples);
  const lengths = each.map((gradient) =>
    Math.hypot(...gradient.reduce<number[]>((sum, value) => [Math.hypot(sum[0] ?? 0, value)], [])),
  );
  const clip = [...lengths].sort((a, b) => a - b)[2] as number; // some are clipped, and some are not
  const { sum, norms } = opened.clipped(examples, { clip, mask });
  const expected = new Float64Array(sum.length);
  for (const [i, gradient] of each.entries()) {
    const factor = (mask[i] as number) * Math.min(1, clip / ((lengths[i] as number) + 1e-6));
    gradient.forEach((value, at) => {
      expected[at] = (expected[at] ?? 0) + factor * value;
    });
  }
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(largest).toBeGreaterThan(0);
  const ofSums = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - (sum[at] ?? 0))), 0) / largest;
  const ofNorms = lengths.reduce((most, length, i) => Math.max(most, Math.abs(length - (norms[i] ?? 0)) / length), 0);
  // Whatever the clip, what comes of a batch is no longer than the clip times its examples.
  expect(Math.sqrt(sum.reduce((total, value) => total + value ** 2, 0))).toBeLessThanOrEqual(4 * clip * (1 + 1e-6));
  return { off: Math.max(ofSums, ofNorms), inFactors: opened.inFactors, names: opened.names };
}

let folder: string;
let packed: PretrainedModel;
let causal: PretrainedModel;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-per-example-"));
  causal = await randomModel({ ...tinyLlama, num_hidden_layers: 1, attention_bias: true });
  const path = join(folder, "packed");
  await packFolder(
    nodeStorage,
    golden("llama-tiny"),
    { storage: nodeStorage, folder: path },
    { bits: 3, scales: "rows" },
  );
  packed = await openModel(nodeStorage, path);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const small = { rank: 3, alpha: 6 };
/** Options to try of every method. */
const tried: Readonly<Record<string, readonly Readonly<Record<string, number | string | boolean>>[]>> = {
  lora: [small, { ...small, freezeA: true }, { ...small, init: "pissa" }],
  dora: [small],
  adalora: [{ initialRank: 3, targetRank: 2 }],
  paca: [small],
  alpha: [{}],
  compacter: [{ reduction: 4 }, { reduction: 4, ownRules: true, placement: "parallel", fastRank: 2 }],
  "compacter++": [{ reduction: 4 }],
  phm: [{ reduction: 4 }, { reduction: 4, sharedRule: true }],
  bottleneck: [{ reduction: 4 }, { reduction: 4, placement: "residual" }],
  full: [{}],
};

/** A method, and where it attaches. */
function placed(
  model: PretrainedModel,
  name: string,
  options: Readonly<Record<string, number | string | boolean>>,
): Pick<Tuned, "choice" | "targets"> {
  const choice = chooseMethod(name, options);
  if (!choice.method.sublayers) return { choice, targets: "all-linear" };
  return sublayerTargets({ ...model, sublayers: model.architecture.sublayers }, choice);
}

it("every method is tried", () => {
  expect(Object.keys(tried).sort()).toEqual([...methods.keys()].sort());
});

describe.each(Object.entries(tried).flatMap(([name, all]) => all.map((options) => ({ name, options }))))(
  "$name $options",
  ({ name, options }) => {
    it.each([undefined, 2])("is as one by one, longest %s", async (longest) => {
      const model = name === "alpha" ? packed : causal;
      const objective = chooseObjective("causal-lm");
      const { off } = await compare({ model, ...placed(model, name, options), objective, longest });
      expect(off).toBeLessThan(1e-6);
    });
  },
);

describe("what is trained in place", () => {
  const lora = (inPlace: Parameters<typeof chooseMethod>[3], targets: Tuned["targets"] = ["q_proj"]): Tuned => ({
    model: causal,
    choice: chooseMethod("lora", small, {}, inPlace),
    targets,
    objective: chooseObjective("causal-lm"),
  });

  it.each([undefined, 2])("is as one by one: heads, embeddings, norms, longest %s", async (longest) => {
    const { off, inFactors } = await compare({
      ...lora({ modules: ["lm_head", "embed_tokens", "norm", "o_proj"] }),
      longest,
    });
    expect(off).toBeLessThan(1e-6);
    expect(inFactors).toBe(longest === undefined ? 0 : 5); // q_proj's A and B too
  });

  it.each([undefined, 2])("is as one by one: a tied table that both ends read, longest %s", async (longest) => {
    const model = await randomModel({ ...tinyLlama, num_hidden_layers: 1, tie_word_embeddings: true });
    const objective = chooseObjective("causal-lm");
    const { off, inFactors } = await compare({ model, ...placed(model, "full", {}), objective, longest });
    expect(off).toBeLessThan(1e-6);
    expect(inFactors > 0).toBe(longest !== undefined);
  });

  it("is as one by one: biases, and adapters of embeddings and of the output layer", async () => {
    const { off } = await compare(lora({ biases: "all" }, ["q_proj", "embed_tokens", "lm_head"]));
    expect(off).toBeLessThan(1e-6);
  });

  it("is as one by one: rows of single tokens", async () => {
    const { off } = await compare(lora({ tokens: { embed_tokens: [3, 5, 60], lm_head: [3, 5, 60] } }));
    expect(off).toBeLessThan(1e-6);
  });
});

/** A model for every kind of example that an objective learns from. */
const models: Readonly<Record<ExampleKind, string>> = {
  sequence: "llama-tiny",
  pair: "llama-tiny",
  label: "encoders/bert-sequence",
  labels: "encoders/bert-multi-label",
  score: "encoders/bert-regression",
  tags: "encoders/bert-token",
  texts: "encoders/bert-base",
  "scored-texts": "encoders/bert-base",
  target: "encoders/t5",
};

describe.each([...objectives.values()])("$name", ({ name, learnsFrom, examples }) => {
  // Full tuning leaves no model as it was, which preferences are held against.
  const tried = learnsFrom === "pair" ? (["lora"] as const) : (["lora", "full"] as const);
  it.each("refused" in examples ? [] : tried)("with %s is as one by one", async (method) => {
    const model = await openModel(nodeStorage, golden(models[learnsFrom]));
    const objective = chooseObjective(name, {}, learnsFrom);
    const head = method === "lora" ? { modules: model.headModules } : {};
    const choice = chooseMethod(method, method === "lora" ? small : {}, {}, head);
    for (const longest of [undefined, 2]) {
      const { off } = await compare({ model, choice, targets: "all-linear", objective, longest });
      expect(off).toBeLessThan(1e-6);
    }
  });

  it.runIf("refused" in examples)("says why there are none", () => {
    expect(examples).toMatchObject({ refused: expect.stringMatching(/^\w.*\w$/) });
  });
});

describe("families", () => {
  it.each(supportedModelTypes)("%s: gradients are as one by one", async (modelType) => {
    const model = await randomModel(await tinyConfig(modelType));
    const kind = tasks[model.task].kindOf({ inputIds: new Int32Array(1), trained: new Uint8Array(1), line: 1 });
    const of = chooseObjective(undefined, {}, kind);
    const objective = "refused" in of.objective.examples ? chooseObjective("cosine", {}, "scored-texts") : of;
    for (const method of ["lora", "full"]) {
      const head = method === "lora" ? { modules: model.headModules } : {};
      const choice = chooseMethod(method, method === "lora" ? { rank: 2, alpha: 4 } : {}, {}, head);
      const { off } = await compare({ model, choice, targets: "all-linear", objective, longest: 2 });
      expect(off).toBeLessThan(1e-6);
    }
  });
});
