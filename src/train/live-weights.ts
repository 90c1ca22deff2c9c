import { assert } from "../errors.ts";
import { graph, type ParameterValue, parameter, sizeOf, type Tensor, type Value } from "../graph/index.ts";
import type { LiveWeight } from "../methods/index.ts";
import { expandLike, scatterElements, transpose, unsqueeze } from "../ops/index.ts";
import type { Device, Patch } from "../runtime/device.ts";
import { compileGraph } from "../runtime/program.ts";
import { flatten, unflatten } from "./packs.ts";

/** Weights of which training keeps columns current, on a device. */
export interface LiveWeights {
  /** Bring them to what the trained tensors on the device say: after those were placed, loaded or restored. */
  place(): Promise<void>;
}

/** Live weights whose trained tensors are one pack: their columns are computed and written together. */
export interface LivePack {
  readonly weights: readonly LiveWeight[];
  /** The columns as they are in the pretrained weights, end to end. */
  readonly original: ParameterValue;
}

/** The live weights of a pack of trained tensors; none where it trains something else. */
export function livePack(trained: readonly Value[], live: readonly LiveWeight[]): LivePack | undefined {
  const weights = live.filter((weight) => weight.leaf.kind === "parameter" && trained.includes(weight.trained));
  const [first] = weights;
  if (!first) return undefined;
  assert(weights.length === trained.length, "a pack holds columns, or none");
  const size = weights.reduce((sum, { original }) => sum + sizeOf(original.shape.map(Number)), 0);
  const whole = weights.length === 1 ? first.original : parameter(`${first.original.name}s`, "float32", [size]);
  return {
    weights: trained.map((value) => weights.find((weight) => weight.trained === value) ?? first),
    original: whole,
  };
}

/**
 * The buffers of weights that are trained where they are: the columns as they were before, and the weights themselves
 * where they are read from buffers, as `packs` write them. What is written is computed on the device, as every update's
 * columns are, so that a run that goes on has the same bits as one that was left alone.
 */
export function liveWeights(device: Device, live: readonly LiveWeight[], packs: readonly LivePack[]): LiveWeights {
  const decoded = live.filter(({ leaf }) => leaf.kind !== "parameter");
  const groups = [...packs, ...decoded.map((weight): LivePack => ({ weights: [weight], original: weight.original }))];
  return {
    place: async () => {
      for (const { weights, original } of groups) {
        const shape = original.shape.map(Number);
        const columns = new Float32Array(sizeOf(shape));
        let start = 0;
        for (const { leaf, pretrained, layout, columns: which } of weights) {
          const whole = await pretrained.source.read();
          // biome-ignore lint/plugin: the columns that one module tunes
          const places = Array.from((await device.download(which.name)).data, Number);
          const own = columnsOf(whole, places, layout);
          columns.set(own, start);
          start += own.length;
          if (leaf.kind === "parameter") await device.upload(leaf.name, layout === "out,in" ? turnedOf(whole) : whole);
        }
        await device.upload(original.name, { dtype: "float32", shape, data: columns });
      }
      await write(device, packs);
    },
  };
}

async function write(device: Device, packs: readonly LivePack[]): Promise<void> {
  if (packs.length === 0) return;
  const outputs: Record<string, Value> = {};
  const patches: Record<string, readonly Patch[]> = {};
  for (const pack of packs) {
    const columns = columnsToWrite(pack, flatten(pack.weights.map(({ trained }) => trained)));
    const name = `columns ${pack.original.name}`;
    outputs[name] = columns.output;
    patches[name] = columns.patches;
  }
  const written = graph({ name: "columns", outputs });
  const program = await compileGraph(device, written, { residentOutputs: Object.keys(outputs) });
  const reads = Object.fromEntries(written.parameters.map(({ name }) => [name, name]));
  await program.run({ feeds: {}, reads, patches });
  await program.release();
}

/** The columns of a pack's weights as they are to be, given what is trained, end to end, and where they go. */
export function columnsToWrite(
  { weights, original }: LivePack,
  trained: Value,
): { readonly output: Value; readonly patches: readonly Patch[] } {
  const [first] = weights as [LiveWeight]; // a pack has members
  const alike = new Set(weights.map(({ config }) => JSON.stringify(config))).size === 1;
  const apart = (): Value => {
    const shapes = weights.map((weight) => weight.original);
    const [before, now] = [unflatten(original, shapes), unflatten(trained, shapes)];
    return flatten(weights.map(({ values }, i) => values(before[i] as Value, now[i] as Value))); // one a weight
  };
  return {
    output: alike ? first.values(original, trained) : apart(),
    patches: weights.map(({ leaf, columns }) => ({ buffer: leaf.name, places: columns.name })),
  };
}

/** A copy of a weight with its trained columns as they are now; `whole` is laid as the weight is. */
export function putColumns(whole: Value, { columns, values, layout, original, trained }: LiveWeight): Value {
  const now = values(original, trained);
  const upright = layout === "out,in";
  const updates = upright ? now : transpose(now, [1, 0]);
  const axis = upright ? 1 : 0;
  return scatterElements(whole, expandLike(unsqueeze(columns, [1 - axis]), updates), updates, axis);
}

/** Some columns of [out, in], whichever way it is stored, as [out, count]. */
function columnsOf({ shape, data }: Tensor, places: readonly number[], layout: LiveWeight["layout"]): Float32Array {
  const [rows = 0, width = 0] = shape;
  const [out, along, across] = layout === "out,in" ? [rows, 1, width] : [width, width, 1];
  assert(data instanceof Float32Array, "weights are read as float32");
  const taken = new Float32Array(out * places.length);
  for (let row = 0, to = 0; row < out; row++) {
    for (const place of places) taken[to++] = data[row * across + place * along] ?? Number.NaN;
  }
  return taken;
}

/** [out, in] as [in, out]. */
function turnedOf({ shape, data }: Tensor): Tensor {
  const [rows = 0, width = 0] = shape;
  const turned = new Float32Array(data.length);
  for (let row = 0, from = 0; row < rows; row++) {
    for (let column = 0; column < width; column++) turned[column * rows + row] = Number(data[from++]);
  }
  return { dtype: "float32", shape: [width, rows], data: turned };
}
