import { describe, expect, it } from "vitest";
import { golden } from "../../tests/helpers/golden.ts";
import { type Graph, parse, print, verify } from "../graph/index.ts";
import { chooseMethod } from "../methods/index.ts";
import { openModel } from "../models/index.ts";
import { findOp } from "../ops/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { nodeStorage } from "../runtime/node-storage.ts";
import { buildTraining } from "./step.ts";

/** Every node's types, inferred anew from its operator's record. */
function verifyTypes(graph: Graph): void {
  verify(graph, { infer: (node) => findOp(node.domain, node.op)?.infer(node.inputs, node.attributes) });
}

describe.each(["llama-tiny", "gpt2-tiny"])("the training step of %s", (name) => {
  it.each([
    ["lora", { rank: 2, dropout: 0.1 }, false],
    ["lora", { rank: 2 }, true],
    ["full", {}, false],
  ] as const)("by %s %o is a sound graph that prints and reads back", async (method, options, accumulates) => {
    const model = await openModel(nodeStorage, golden(name));
    const { gradient, update } = buildTraining(model, {
      choice: chooseMethod(method, options),
      targets: "all-linear",
      optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates,
    });
    for (const { graph } of [gradient, ...(update ? [update] : [])]) {
      verifyTypes(graph);
      const text = print(graph);
      expect(print(parse(text))).toBe(text);
    }
  });
});
