import { float, type Room, type RowsAt, type Step, step, together } from "../kernels/index.ts";
import type { DecodeRecipe, LayerRecipe, NormRecipe, RecipeActivation } from "../models/index.ts";
import {
  denseStep,
  type Layout,
  type Linear,
  type LinearPlaces,
  layOutLinear,
  layOutOutput,
  layOutTensor,
  layOutVector,
} from "./linear.ts";

/** Sizes that a program is laid out for. */
export interface ProgramSizes {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** Tokens that one run takes. */
  readonly rows: number;
  readonly threads: number;
  /** Tokens that a sequence can have. */
  readonly capacity: number;
}

/** Where a run's inputs and outputs are. Addresses of words, one a row unless said otherwise. */
export interface Inputs {
  readonly rows: number;
  readonly ids: number;
  readonly positions: number;
  /** Address of each row's cache, and the tokens that the cache has room for. */
  readonly caches: number;
  readonly capacities: number;
  /** How many rows' logits are wanted, and which. */
  readonly pickCount: number;
  readonly picks: number;
}

/** Cosines and sines of a rope: [rows][pairs] each. */
export interface RopeTables {
  readonly frequencies: readonly number[];
  readonly scale: number;
  readonly cos: number;
  readonly sin: number;
}

/** A model laid out in kernel memory. */
export interface Program {
  readonly inputs: Inputs;
  readonly ropes: readonly RopeTables[];
  /** Float32 [rows][logitsBytes/4], in the order of picks. */
  readonly logits: number;
  readonly logitsBytes: number;
  /** All steps, and how many of them come before the logits. Built when everything is loaded. */
  steps(): { readonly steps: readonly Step[]; readonly trunk: number };
}

/** In the order of `activate4` in `kernels/assembly/ops.ts`. */
const activationKinds: Readonly<Record<RecipeActivation, number>> = {
  silu: 0,
  gelu_new: 1,
  gelu_pytorch_tanh: 1,
  gelu: 2,
  relu: 3,
  tanh: 4,
};

/** Rows of float32 of a width, for every row, shared by threads. */
interface Buffer extends RowsAt {
  readonly threadBytes: 0;
}

/** Lay a recipe out: its tensors, its buffers, and the program that runs it. */
export function layOutProgram(layout: Layout, recipe: DecodeRecipe, sizes: ProgramSizes): Program {
  const { arena } = layout;
  const { rows, threads, hiddenSize: hidden } = sizes;
  const list = (): number => arena.reserve(4 * rows).at;
  const inputs: Inputs = {
    rows: list(),
    ids: list(),
    positions: list(),
    caches: list(),
    capacities: list(),
    pickCount: list(),
    picks: list(),
  };
  const padded = (width: number): number => 256 * Math.ceil(width / 64);
  const buffer = (width: number): Buffer => {
    const rowBytes = padded(width);
    return { at: arena.reserve(rows * rowBytes).at, rowBytes, threadBytes: 0 };
  };
  const layers = recipe.layers.map((layer) => layOutLayer(layout, layer));
  const embedding = layOutTensor(layout, recipe.embedding.tensor);
  const positions = recipe.embedding.positions ? layOutTensor(layout, recipe.embedding.positions) : undefined;
  const lastNorm = layOutNorm(layout, recipe.norm);
  const { tensor, cap } = recipe.head;
  const head = tensor === recipe.embedding.tensor ? embedding : layOutOutput(layout, tensor);

  const widest = (widths: readonly number[]): number => Math.max(1, ...widths);
  const x = buffer(hidden);
  const sum = layers.some(({ attendAfter, feedAfter }) => attendAfter ?? feedAfter)
    ? [buffer(hidden), buffer(hidden)]
    : [];
  // Every thread norms for itself, which is less work than to wait for another.
  const normed: RowsAt = {
    at: arena.reserve(threads * rows * padded(hidden)).at,
    rowBytes: padded(hidden),
    threadBytes: rows * padded(hidden),
  };
  const slots = [0, 1, 2].map((i) => buffer(widest(layers.map(({ projections }) => projections[i]?.outputs ?? 0))));
  const inner = [0, 1].map((i) => buffer(widest(layers.map(({ inner: maps }) => maps[i]?.outputs ?? 0))));
  const mixed = buffer(widest(recipe.layers.map(({ attention }) => attention.heads * attention.headDim)));
  const active = buffer(widest(layers.map(({ down }) => down.recipe.inputs)));
  const scratch = arena.reserve(1024 * threads).at;
  const scoreBytes = 4 * sizes.capacity + 64;
  const scores = arena.reserve(scoreBytes * threads).at;
  const ranks = [...layout.updates.values()].map(({ A }) => A.shape[0] ?? 0);
  const innerBytes = 4 * widest(ranks) + 64;
  const rankRoom = arena.reserve(innerBytes * threads).at;
  const tables = [0, 1, 2].map((i): Room => {
    const all = layers.flatMap(({ projections, output, inner: maps, down }) => [
      projections[i],
      maps[i],
      ...(i === 0 ? [output, down.linear] : []),
    ]);
    return arena.reserve(widest(all.map((map) => map?.scratchBytes(rows) ?? 0)));
  });
  const placesOf = (i: number): LinearPlaces => {
    const room = tables[i] ?? { at: 0, bytes: 0 };
    return { rows: inputs.rows, tables: room, scratch, inner: rankRoom, innerBytes };
  };
  const ropes = new Map<LayerRecipe["attention"]["rope"], RopeTables>();
  for (const { attention } of recipe.layers) {
    const { rope } = attention;
    if (rope === undefined || ropes.has(rope)) continue;
    const bytes = 4 * rope.frequencies.length * rows;
    ropes.set(rope, { ...rope, cos: arena.reserve(bytes).at, sin: arena.reserve(bytes).at });
  }
  const logitsBytes = padded(sizes.vocabSize);
  const logits = arena.reserve(logitsBytes * rows).at;

  const normSteps = (norm: PlacedNorm, from: RowsAt, to: RowsAt): Step =>
    step("norm", [
      ...[inputs.rows, from.at, from.rowBytes, hidden, norm.weight, norm.bias, float(norm.epsilon), norm.centred],
      ...[to.at, to.rowBytes, to.threadBytes],
    ]);
  /** Maps of one input side by side. */
  const linears = (maps: readonly Linear[], from: RowsAt, to: readonly RowsAt[], adds = false): readonly Step[] => [
    ...together(maps.flatMap((map, i) => map.prepare(from, placesOf(i)))),
    ...together(maps.flatMap((map, i) => map.multiply(from, to[i] ?? from, adds, placesOf(i)))),
  ];
  /** x += map(from), normed on the way where the model does so. */
  const addBack = (map: Linear, from: RowsAt, after: PlacedNorm | undefined): readonly Step[] => {
    const [first, second] = sum;
    if (after === undefined || first === undefined || second === undefined) return linears([map], from, [x], true);
    const add = step("addRows", [inputs.rows, x.at, x.rowBytes, second.at, second.rowBytes, hidden]);
    return [...linears([map], from, [first]), normSteps(after, first, second), add];
  };
  const layerSteps = (layer: PlacedLayer, recipeOf: LayerRecipe, index: number): readonly Step[] => {
    const { attention, feedForward } = recipeOf;
    const { heads, kvHeads, headDim } = attention;
    const [q, k, v] = queryKeyValue(slots, attention);
    const rope = ropes.get(attention.rope);
    const pairs = rope?.frequencies.length ?? 0;
    const attend = step("attend", [
      ...[inputs.rows, inputs.positions, inputs.caches, inputs.capacities],
      ...[q.at, k.at, v.at, q.rowBytes, k.rowBytes, v.rowBytes, heads, kvHeads, headDim],
      ...[float(attention.scale), attention.window ?? 0, attention.cap === undefined ? 0 : float(attention.cap)],
      ...[2 * pairs, rope?.cos ?? 0, rope?.sin ?? 0, 4 * pairs],
      ...[layer.queryNorm, layer.keyNorm, float(attention.queryNorm?.epsilon ?? 0), index],
      ...[mixed.at, mixed.rowBytes, scores, scoreBytes],
    ]);
    const [first, second] = inner as [Buffer, Buffer]; // two, above
    const width = feedForward.down.inputs;
    const up = feedForward.gated
      ? feedForward.inner.length > 1
        ? second
        : { ...first, at: first.at + 4 * width }
      : undefined;
    const activate = step("activate", [
      ...[inputs.rows, first.at, first.rowBytes, up?.at ?? 0, up?.rowBytes ?? 0, width],
      ...[activationKinds[feedForward.activation], active.at, active.rowBytes],
    ]);
    return [
      { ...normSteps(layer.attendNorm, x, normed), waits: false },
      ...linears(layer.projections, normed, slots),
      attend,
      ...addBack(layer.output, mixed, layer.attendAfter),
      { ...normSteps(layer.feedNorm, x, normed), waits: false },
      ...linears(layer.inner, normed, inner),
      activate,
      ...addBack(layer.down.linear, active, layer.feedAfter),
    ];
  };
  return {
    inputs,
    ropes: [...ropes.values()],
    logits,
    logitsBytes,
    steps: () => {
      const places = positions ? [positions.at, positions.kind, inputs.positions] : [0, 0, 0];
      const { scale } = recipe.embedding;
      const from = [inputs.rows, inputs.ids, embedding.at, embedding.kind, hidden, float(scale)];
      const embed = step("embed", [...from, x.at, x.rowBytes, ...places]);
      const trunk = [embed, ...layers.flatMap((layer, i) => layerSteps(layer, recipe.layers[i] as LayerRecipe, i))]; // as many
      const to = { at: logits, rowBytes: logitsBytes };
      const last = { ...normSteps(lastNorm, x, normed), waits: false };
      const scores = denseStep({
        ...{ rows: inputs.pickCount, picks: inputs.picks, x: normed, weight: head, outputs: sizes.vocabSize },
        ...{ inputs: hidden, y: to, bias: 0, adds: false, cap: cap === undefined ? 0 : float(cap) },
      });
      return { steps: [...trunk, last, scores], trunk: trunk.length };
    },
  };
}

interface PlacedNorm {
  readonly weight: number;
  readonly bias: number;
  readonly epsilon: number;
  readonly centred: 0 | 1;
}

function layOutNorm(layout: Layout, { kind, module, epsilon, addsOne }: NormRecipe): PlacedNorm {
  return {
    weight: layOutVector(layout, `${module}.weight`, undefined, addsOne),
    bias: kind === "layer" ? layOutVector(layout, `${module}.bias`) : 0,
    epsilon,
    centred: kind === "layer" ? 1 : 0,
  };
}

interface PlacedLayer {
  readonly attendNorm: PlacedNorm;
  readonly projections: readonly Linear[];
  readonly queryNorm: number;
  readonly keyNorm: number;
  readonly output: Linear;
  readonly attendAfter: PlacedNorm | undefined;
  readonly feedNorm: PlacedNorm;
  readonly inner: readonly Linear[];
  readonly down: { readonly linear: Linear; readonly recipe: { readonly inputs: number } };
  readonly feedAfter: PlacedNorm | undefined;
}

function layOutLayer(layout: Layout, { attention, feedForward }: LayerRecipe): PlacedLayer {
  const norm = (recipe: NormRecipe | undefined): PlacedNorm | undefined => recipe && layOutNorm(layout, recipe);
  const headNorm = (recipe: NormRecipe | undefined): number => (recipe ? layOutNorm(layout, recipe).weight : 0);
  return {
    attendNorm: layOutNorm(layout, attention.norm),
    projections: attention.projections.map((map) => layOutLinear(layout, map)),
    queryNorm: headNorm(attention.queryNorm),
    keyNorm: headNorm(attention.keyNorm),
    output: layOutLinear(layout, attention.output),
    attendAfter: norm(attention.after),
    feedNorm: layOutNorm(layout, feedForward.norm),
    inner: feedForward.inner.map((map) => layOutLinear(layout, map)),
    down: { linear: layOutLinear(layout, feedForward.down), recipe: feedForward.down },
    feedAfter: norm(feedForward.after),
  };
}

/** Where queries, keys and values are: three buffers, or one after the other in the first. */
function queryKeyValue(
  slots: readonly Buffer[],
  { projections, heads, kvHeads, headDim }: LayerRecipe["attention"],
): readonly [RowsAt, RowsAt, RowsAt] {
  const [first, second, third] = slots as [Buffer, Buffer, Buffer]; // three slots
  if (projections.length > 1) return [first, second, third];
  const keys = first.at + 4 * heads * headDim;
  return [first, { ...first, at: keys }, { ...first, at: keys + 4 * kvHeads * headDim }];
}
