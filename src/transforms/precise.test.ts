import { expect, it } from "vitest";
import { graph, input, tensor, type Value } from "../graph/index.ts";
import { cos, sin } from "../ops/index.ts";
import { openNodeDevice } from "../runtime/node.ts";
import { compileGraph } from "../runtime/program.ts";
import { roughKernelsOf } from "../runtime/provider.ts";
import { precise } from "./precise.ts";

/** Angles on both sides of 0, as large as rotary positions make them. */
const angles = [1, 1e2, 1e4, 2 ** 17].flatMap((range) =>
  Array.from({ length: 2001 }, (_, i) => Math.fround((i / 1000 - 1) * range)),
);

/** Largest errors of sine and cosine as a provider computes them, with some operators written as formulas. */
async function errorsOn(provider: string, rough: ReadonlySet<string>): Promise<readonly number[]> {
  const device = await openNodeDevice({ provider, worker: false });
  const x = input("x", "float32", ["n"]);
  const [sine, cosine] = precise([sin(x), cos(x)], rough) as [Value, Value]; // as many as before
  const program = await compileGraph(device, graph({ inputs: [x], outputs: { sine, cosine } }));
  const found = await program.run({ feeds: { x: tensor("float32", [angles.length], angles) } });
  await device.close();
  const exact = { sine: Math.sin, cosine: Math.cos };
  return Object.entries(exact).map(([name, of]) =>
    angles.reduce((most, angle, i) => Math.max(most, Math.abs(Number(found[name]?.data[i]) - of(angle))), 0),
  );
}

it("sines and cosines as formulas are right to 2e-7", async () => {
  for (const error of await errorsOn("cpu", roughKernelsOf("webgpu"))) expect(error).toBeLessThan(2.1e-7);
});

it("which is so on WebGPU, whose own may be wrong by far more", async ({ skip }) => {
  const errors = await errorsOn("webgpu", roughKernelsOf("webgpu")).catch((error: unknown) => {
    // Linux x64 brings a driver (see vulkan.setup.ts), so there it has to start.
    if (process.platform === "linux" && process.arch === "x64") throw error;
    return skip("WebGPU does not start on this system");
  });
  for (const error of errors) expect(error).toBeLessThan(2.1e-7);
});

it("what is computed well stays as it is", () => {
  const y = sin(input("x", "float32", ["n"]));
  expect(precise([y], roughKernelsOf("cpu"))).toEqual([y]);
  const double = cos(input("x", "float64", ["n"]));
  expect(precise([double], roughKernelsOf("webgpu"))[0]).toBe(double);
});
