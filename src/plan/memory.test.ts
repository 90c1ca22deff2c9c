import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { randomExamples, randomModel } from "../../tests/helpers/tiny-model.ts";
import { constantOf, graph, input, nameOf, tensor } from "../graph/index.ts";
import { chooseMethod } from "../methods/index.ts";
import { add, exp, matmul, mul, reshape } from "../ops/index.ts";
import { chooseOptimizer } from "../optim/index.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { compileGraph } from "../runtime/program.ts";
import { makeBatch } from "../train/data/index.ts";
import { fillDropoutMasks } from "../train/dropout.ts";
import { buildTraining } from "../train/step.ts";
import { liveMemory } from "./memory.ts";
import { executionOrder } from "./order.ts";

describe("executionOrder", () => {
  it("is ONNX Runtime's own, node by node, for a whole training step", async () => {
    const model = await randomModel();
    const { gradient, attached } = buildTraining(model, {
      choice: chooseMethod("lora", { rank: 4, dropout: 0.1 }),
      targets: "all-linear",
      optimizer: chooseOptimizer("adamw", { weightDecay: 0.01 }),
      maxGradNorm: 1,
      memory: "balanced",
      accumulates: true,
    });
    const folder = await mkdtemp(join(tmpdir(), "scion-order-"));
    const device = await openNodeDevice({ worker: false, threads: 1 });
    try {
      const tuning = { optimization: "disabled", profile: join(folder, "profile") } as const;
      const program = await compileGraph(device, gradient.graph, { tuning });
      const { feeds, sizes } = makeBatch(randomExamples(3), { padId: 0 });
      const masks = fillDropoutMasks(attached.dropoutMasks, sizes, { seed: 0, step: 1, batch: 0 });
      const scalars = { normaliser: tensor("float32", [], 1), carry: tensor("float32", [], 0) };
      const parameters = Object.fromEntries(
        gradient.graph.parameters.map(({ name, shape }) => [name, tensor("float32", shape.map(Number), 0.01)]),
      );
      await program.run({ feeds: { ...feeds, ...masks, ...scalars, ...parameters } });
      await program.release();
      const [file = ""] = await readdir(folder);
      const events = JSON.parse(await readFile(join(folder, file), "utf8")) as { name: string }[];
      const ran = events.flatMap(({ name }) => (name.endsWith("_kernel_time") ? [name.slice(0, -12)] : []));
      const order = executionOrder(gradient.graph.nodes);
      expect(ran).toEqual(order.map((node) => nameOf(gradient.graph, node.outputs[0] as never)));
    } finally {
      await device.close();
      await rm(folder, { recursive: true });
    }
  });
});

describe("liveMemory", () => {
  it("counts a value from the node that makes it to its last reader, and a view as what it is a view of", () => {
    const x = input("x", "float32", ["n", 256]);
    const a = exp(x); // n·1024 bytes
    const b = mul(a, 2);
    const c = matmul(reshape(b, ["n", 256]), constantOf(tensor("float32", [256, 2], 1)));
    const g = graph({ inputs: [x], outputs: { y: add(c, 1) } });
    const { peakBytes, atPeak } = liveMemory(g, { n: 8 });
    expect(peakBytes).toBe(2 * 8 * 1024); // a while b is made
    expect(atPeak.map(({ bytes }) => bytes)).toEqual([8192, 8192]);
  });
});
