import { TuneError } from "../errors.ts";
import { graph, input, makeNode, tensor, type Value, weight } from "../graph/index.ts";
import type { Device } from "./device.ts";
import { compileGraph } from "./program.ts";

/** What a person asks for who leaves the choice of a provider to {@link openFastest}. */
export const anyProvider = "auto";

const [rows, width, depth, repeats] = [256, 512, 3, 3];

/**
 * Open the provider that multiplies matrices fastest here, of those that start. Where one alone starts, nothing is
 * measured; else it takes a second or two.
 * @param open opens a device; what it rejects with is a reason to pass over its provider.
 * @throws {TuneError} `provider-unavailable` when none starts, with the last one's reason.
 */
export async function openFastest(
  providers: readonly string[],
  open: (provider: string) => Promise<Device>,
): Promise<Device> {
  const opened: Device[] = [];
  let reason: unknown;
  for (const provider of providers) {
    try {
      opened.push(await open(provider));
    } catch (error) {
      reason = error;
    }
  }
  let best: { device: Device; ms: number } | undefined;
  for (const device of opened) {
    const ms = opened.length === 1 ? 0 : await timeProducts(device, best?.ms ?? Number.POSITIVE_INFINITY);
    if (best === undefined || ms < best.ms) {
      await best?.device.close();
      best = { device, ms };
    } else {
      await device.close();
    }
  }
  if (best !== undefined) return best.device;
  const why = reason instanceof TuneError ? reason.what : String(reason);
  throw new TuneError("provider-unavailable", `none of ${providers.join(", ")} starts here: ${why}`, {
    fix: "install onnxruntime-node for this system, or a driver for its GPU",
    cause: reason,
  });
}

/** Milliseconds of a few products of the size that a small model's have. One that is far behind is not asked again. */
async function timeProducts(device: Device, best: number): Promise<number> {
  const x = input("x", "float32", [rows, width]);
  const matrices = Array.from({ length: depth }, (_, i) => matrix(`w${i}`, i === depth - 1 ? 1 : width));
  const y = matrices.reduce<Value>((value, w) => product(value, w), x);
  try {
    const program = await compileGraph(device, graph({ name: "measure", inputs: [x], outputs: { y } }));
    const feeds = { x: tensor("float32", [rows, width], 1) };
    const run = async (): Promise<number> => {
      const started = performance.now();
      await program.run({ feeds });
      return performance.now() - started;
    };
    const first = await run();
    if (first > 50 * best) return first;
    const times: number[] = [];
    for (let i = 0; i < repeats; i++) times.push(await run());
    await program.release();
    return Math.min(...times);
  } catch {
    return Number.POSITIVE_INFINITY; // it starts, and does not compute
  }
}

function matrix(name: string, columns: number): Value {
  const shape = [width, columns];
  const values = tensor("float32", shape, 1 / width);
  return weight(name, { dtype: "float32", shape, sizeBytes: values.data.byteLength, read: async () => values });
}

function product(a: Value, b: Value): Value {
  const outputs = [{ dtype: "float32", shape: [rows, b.shape[1] ?? 1] }] as const;
  return makeNode({ op: "MatMul", inputs: [a, b], outputs }).outputs[0] as Value; // it has one
}
