import { assert } from "../errors.ts";
import { graph, type Tensor, type Value } from "../graph/index.ts";
import type { LiveWeight } from "../methods/index.ts";
import { expandLike, scatterElements, transpose, unsqueeze } from "../ops/index.ts";
import type { Device, Patch } from "../runtime/device.ts";
import { compileGraph } from "../runtime/program.ts";

/** Weights of which training keeps columns current, on a device. */
export interface LiveWeights {
  readonly buffers: readonly string[];
  /** Bring them to what the trained tensors on the device say: after those were placed, loaded or restored. */
  place(): Promise<void>;
}

/**
 * The buffers of weights that are trained where they are: the columns as they were before, and the weights themselves
 * where they are read from buffers. What is written is computed on the device, as every update's columns are, so that a
 * run that goes on has the same bits as one that was left alone.
 */
export function liveWeights(device: Device, live: readonly LiveWeight[]): LiveWeights {
  return {
    buffers: live.flatMap(({ leaf, original }) => [original.name, ...(leaf.kind === "parameter" ? [leaf.name] : [])]),
    place: async () => {
      for (const { leaf, pretrained, layout, columns, original } of live) {
        const whole = await pretrained.source.read();
        const places = Array.from((await device.download(columns.name)).data, Number);
        await device.upload(original.name, columnsOf(whole, places, layout));
        if (leaf.kind === "parameter") await device.upload(leaf.name, whole);
      }
      await write(
        device,
        live.filter(({ leaf }) => leaf.kind === "parameter"),
      );
    },
  };
}

async function write(device: Device, live: readonly LiveWeight[]): Promise<void> {
  if (live.length === 0) return;
  const outputs: Record<string, Value> = {};
  const patches: Record<string, Patch> = {};
  for (const weight of live) {
    const { output, patch } = columnsToWrite(weight, weight.trained);
    outputs[weight.leaf.name] = output;
    patches[weight.leaf.name] = patch;
  }
  const written = graph({ name: "columns", outputs });
  const program = await compileGraph(device, written, { residentOutputs: Object.keys(outputs) });
  const reads = Object.fromEntries(written.parameters.map(({ name }) => [name, name]));
  await program.run({ feeds: {}, reads, patches });
  await program.release();
}

/** A weight's columns as they are to be, laid as the weight is, and where they go. */
export function columnsToWrite(
  { leaf, layout, columns, values }: LiveWeight,
  trained: (key: string) => Value,
): { readonly output: Value; readonly patch: Patch } {
  const upright = layout === "out,in";
  const now = values(trained);
  return {
    output: upright ? now : transpose(now, [1, 0]),
    patch: { buffer: leaf.name, axis: upright ? 1 : 0, places: columns.name },
  };
}

/** A copy of a weight with its trained columns as they are now; `whole` is laid as the weight is. */
export function putColumns(whole: Value, { columns, values, layout, trained }: LiveWeight): Value {
  const now = values(trained);
  const upright = layout === "out,in";
  const updates = upright ? now : transpose(now, [1, 0]);
  const axis = upright ? 1 : 0;
  return scatterElements(whole, expandLike(unsqueeze(columns, [1 - axis]), updates), updates, axis);
}

/** Some columns of [out, in], whichever way it is stored, as [out, count]. */
function columnsOf({ shape, data }: Tensor, places: readonly number[], layout: LiveWeight["layout"]): Tensor {
  const [rows = 0, width = 0] = shape;
  const [out, along, across] = layout === "out,in" ? [rows, 1, width] : [width, width, 1];
  assert(data instanceof Float32Array, "weights are read as float32");
  const taken = new Float32Array(out * places.length);
  for (let row = 0, to = 0; row < out; row++) {
    for (const place of places) taken[to++] = data[row * across + place * along] ?? Number.NaN;
  }
  return { dtype: "float32", shape: [out, places.length], data: taken };
}
