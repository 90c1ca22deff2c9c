import { type Graph, graph, input, type Tensor, tensor, type Value, weight } from "../graph/index.ts";
import { add, gemm, mul } from "../ops/index.ts";
import type { Device } from "../runtime/device.ts";
import { compileGraph } from "../runtime/program.ts";
import { type Machine, nodeCost } from "./cost.ts";

/** Sizes of a small model's products: large enough for full speed, small enough to take a moment. */
const [rows, width, inner] = [512, 576, 1536];
const repeats = 7;

/**
 * Measure how fast a device runs operators: products with weights, elementwise arithmetic on activations, and
 * operators with next to nothing to do. Takes about a second, and a few dozen megabytes.
 */
export async function measureMachine(device: Device): Promise<Machine> {
  const x = input("x", "float32", [rows, width]);
  const products = Array.from({ length: 4 }).reduce<Value>(
    (value, _, i) => gemm(gemm(value, matrix(`up${i}`, width, inner)), matrix(`down${i}`, inner, width)),
    x,
  );
  const activations = input("x", "float32", [rows, inner]);
  const small = input("x", "float32", [1]);
  const flops = await timeOf(device, x, products);
  const bytes = await timeOf(device, activations, chain(activations));
  const calls = await timeOf(device, small, chain(small));
  return {
    flopsPerSecond: sumOf(flops.graph, "productFlops") / flops.seconds,
    bytesPerSecond: sumOf(bytes.graph, "movedBytes") / bytes.seconds,
    secondsPerOperator: calls.seconds / calls.graph.nodes.length,
  };
}

function matrix(name: string, from: number, to: number): Value {
  const values: Tensor<"float32"> = tensor("float32", [from, to], 1 / from);
  return weight(name, { dtype: "float32", shape: [from, to], sizeBytes: 4 * from * to, read: async () => values });
}

/** Forty operators of elementwise arithmetic, one after the other. */
function chain(x: Value): Value {
  return Array.from({ length: 20 }).reduce<Value>((value) => mul(add(value, x), value), x);
}

/** The median of a few runs. */
async function timeOf(
  device: Device,
  x: Value & { readonly kind: "input" },
  y: Value,
): Promise<{ graph: Graph; seconds: number }> {
  const measured = graph({ name: "measure", inputs: [x], outputs: { y } });
  const program = await compileGraph(device, measured, {
    residentOutputs: ["y"],
    tuning: { optimization: "disabled" },
  });
  try {
    const feeds = { x: tensor("float32", x.shape.map(Number), 0) };
    const seconds: number[] = [];
    for (let i = 0; i < repeats; i++) {
      const started = performance.now();
      await program.run({ feeds });
      seconds.push((performance.now() - started) / 1000);
    }
    return { graph: measured, seconds: seconds.sort((a, b) => a - b)[(repeats - 1) / 2] as number }; // odd
  } finally {
    await program.release();
  }
}

function sumOf(measured: Graph, key: "productFlops" | "movedBytes"): number {
  return measured.nodes.reduce((sum, node) => sum + nodeCost(node, {})[key], 0);
}
