import { assert, listing, TuneError } from "../errors.ts";
import { sizeOf, type Tensor, type WeightValue } from "../graph/index.ts";
import { partToFloat32 } from "../io/convert.ts";
import { type Floats, type Matrix, matmul, transposed } from "../linalg/index.ts";
import { type Adapter, attach, configAt, linearModules, type Site, type Trainable } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import type { LinearSite } from "../ops/index.ts";
import { pickRows, sum } from "./products.ts";
import type { WeightMemory } from "./weight-memory.ts";

/** An update left [rows, r] · right [r, cols]. */
export interface LowRank {
  readonly left: Matrix<Float64Array>;
  readonly right: Matrix<Float64Array>;
}

/** A weight before and after tuning, upright: [out, in]. Nothing is read before it is asked for. */
export interface MatrixPair {
  /** The module, and the part of it where several maps are fused. */
  readonly name: string;
  /** The module, as the model names it. */
  readonly module: string;
  readonly rows: number;
  readonly cols: number;
  /** The rows of the module's weight that these are; all of them when it is not fused. */
  readonly part: readonly (readonly [from: number, to: number])[] | undefined;
  /** Where memory is given, the weight may be read into it. */
  base(memory?: WeightMemory): Promise<Matrix<Float32Array>>;
  tuned(): Promise<Matrix>;
  /** The update in factors, where the method has it so. */
  readonly update?: () => LowRank;
}

/** What is compared with what. */
export interface Comparison {
  readonly base: PretrainedModel;
  /** The tuned model: a folder of its own, or the base with an adapter merged in. */
  readonly tuned: PretrainedModel;
  /** The adapter that was merged in, when there is one: only its modules are compared. */
  readonly adapter?: Adapter;
  /** Take fused projections as they are stored. */
  readonly fused?: boolean;
}

/**
 * The matrices to compare: every linear layer but the output layer, or those that an adapter adapts. Embeddings and norms
 * are no part of it.
 * @throws {TuneError} `models-differ` listing every linear layer that only one of the models has, or with other sizes.
 */
export function matrixPairs({ base, tuned, adapter, fused = false }: Comparison): readonly MatrixPair[] {
  const { outputs } = base.predict();
  const { outputModule } = base.architecture;
  const [sites, tunedSites] = [linearModules(outputs), linearModules(tuned.predict().outputs)];
  refuseDifferences(
    weightShapes(sites),
    weightShapes(tunedSites),
    tuned.folder,
    "The models do not have the same linear layers",
  );
  const attached =
    adapter?.choice.method.attaches === "linear"
      ? attach(outputs, { ...adapter, outputModule, training: false }).trainables
      : undefined;
  const adapted = attached && groupByModule(attached);
  const [lastBase, lastTuned] = [lastOne<Matrix<Float32Array>>(), lastOne<Matrix>()];
  return [...sites].flatMap(([module, { weight, layout, inFeatures, outFeatures }]) => {
    const ofOutput = module === outputModule || module.startsWith(`${outputModule}.`);
    const after = tunedSites.get(module)?.weight;
    if (ofOutput || (adapted && !adapted.has(module))) return [];
    assert(weight.kind === "weight" && after?.kind === "weight", "a pretrained linear layer has a pretrained weight");
    const upright = (matrix: Matrix<Float32Array>): Matrix<Float32Array> =>
      layout === "in,out" ? transposed(matrix) : matrix;
    const baseWeight = async (memory?: WeightMemory): Promise<Matrix<Float32Array>> =>
      upright(await readMatrix(base.weights, weight.name, memory));
    const tunedWeight = async (): Promise<Matrix<Float32Array>> => upright(await readMatrix(tuned.weights, after.name));
    const trainables = adapted?.get(module);
    const update =
      adapter && trainables
        ? factorsOf(adapter, { module, weight, layout, inFeatures, outFeatures }, trainables)
        : undefined;
    const [first = 0, second = 0] = weight.shape.map(Number);
    const [rows, cols] = layout === "in,out" ? [second, first] : [first, second];
    const whole: MatrixPair = {
      name: module,
      module,
      rows,
      cols,
      part: undefined,
      base: baseWeight,
      // In float64 from the factors where there are any: nothing is rounded to float32 in between.
      tuned: update
        ? async () => {
            const { left, right } = update();
            return sum(matmul(left, right), await baseWeight());
          }
        : tunedWeight,
      ...(update ? { update } : {}),
    };
    const parts = fused ? [] : base.fusedParts(module);
    if (parts.length === 0) return [whole];
    const shared: MatrixPair = {
      ...whole,
      base: () => lastBase(module, () => whole.base()),
      tuned: () => lastTuned(module, whole.tuned),
    };
    return parts.map(({ name, rows: ranges }) => partOf(shared, name, ranges));
  });
}

/** What was read last is kept until another is asked for: the parts of a fused weight are looked at one after the other. */
function lastOne<T>(): (module: string, read: () => Promise<T>) => Promise<T> {
  let last: { readonly module: string; readonly value: Promise<T> } | undefined;
  return (module, read) => {
    if (last?.module !== module) last = { module, value: read() };
    return last.value;
  };
}

function weightShapes(sites: ReadonlyMap<string, LinearSite>): ReadonlyMap<string, LinearSite["weight"]["shape"]> {
  return new Map([...sites].map(([module, { weight }]) => [module, weight.shape]));
}

function partOf(whole: MatrixPair, name: string, ranges: NonNullable<MatrixPair["part"]>): MatrixPair {
  const { update } = whole;
  return {
    ...whole,
    name: `${whole.module}.${name}`,
    rows: ranges.reduce((total, [from, to]) => total + to - from, 0),
    part: ranges,
    base: async () => pickRows(await whole.base(), ranges),
    tuned: async () => pickRows(await whole.tuned(), ranges),
    ...(update
      ? {
          update: () => {
            const { left, right } = update();
            return { left: pickRows(left, ranges), right };
          },
        }
      : {}),
  };
}

/** The same matrices on their sides: rows as columns, so that left vectors are right ones. */
export function onItsSide(pair: MatrixPair): MatrixPair {
  const { update } = pair;
  return {
    ...pair,
    rows: pair.cols,
    cols: pair.rows,
    base: async (memory) => transposed(await pair.base(memory)),
    tuned: async () => transposed(await pair.tuned()),
    ...(update
      ? {
          update: () => {
            const { left, right } = update();
            return { left: transposed(right), right: transposed(left) };
          },
        }
      : {}),
  };
}

function groupByModule(trainables: readonly Trainable[]): ReadonlyMap<string, readonly Trainable[]> {
  const groups = new Map<string, Trainable[]>();
  for (const trainable of trainables) {
    const group = groups.get(trainable.module) ?? [];
    group.push(trainable);
    groups.set(trainable.module, group);
  }
  return groups;
}

/** The update of a module in factors, when its method has them. */
function factorsOf(adapter: Adapter, site: Site, trainables: readonly Trainable[]): (() => LowRank) | undefined {
  const { asLora, departure } = adapter.choice.method;
  const config = configAt(adapter.choice, site.module);
  // Where something else than the base's weight stood beside the factors (PiSSA), they are not the update.
  const apart = departure?.(site, config) !== undefined;
  if (asLora === undefined || apart || trainables.some(({ inPlace }) => inPlace)) return undefined;
  return () => {
    const tensors = trainables.map(({ key, value }): [string, Tensor] => {
      const tensor = adapter.parameters.get(value.name);
      assert(tensor !== undefined, `${site.module} has no parameter ${key}`);
      return [key, tensor];
    });
    const { A, B } = asLora(Object.fromEntries(tensors), config, site);
    const matrixOf = ({ shape: [rows = 0, cols = 0], data }: Tensor): Matrix<Float64Array> =>
      refuseNotFinite({ rows, cols, data: Float64Array.from(data as Float32Array) }, `${site.module}, update`); // as declared
    return { left: matrixOf(B), right: matrixOf(A) };
  };
}

async function readMatrix(
  weights: ReadonlyMap<string, WeightValue>,
  name: string,
  memory?: WeightMemory,
): Promise<Matrix<Float32Array>> {
  const weight = weights.get(name);
  assert(weight !== undefined, `${name} is one of the weights that were compared`);
  const { stored, shape: sizes } = weight.source;
  const readPart = stored?.readPart;
  const size = sizeOf(sizes);
  const { shape, data } =
    memory && readPart
      ? { shape: sizes, data: await partToFloat32({ ...stored, readPart }, 0, size, memory.take(size).buffer) }
      : await weight.source.read();
  assert(data instanceof Float32Array, "weights are read as float32, whatever files hold");
  return refuseNotFinite({ rows: shape[0] ?? 0, cols: shape[1] ?? 1, data }, name);
}

/** @throws {TuneError} `not-finite-weight`: such a matrix has no spectrum, and certainly not "no intruders". */
export function refuseNotFinite<T extends Floats>(matrix: Matrix<T>, name: string): Matrix<T> {
  const { data } = matrix;
  let bad = 0;
  while (bad < data.length && Number.isFinite(data[bad])) bad += 1; // a loop: a callback takes ten times as long
  if (bad === data.length) return matrix;
  const at = `[${Math.floor(bad / matrix.cols)}, ${bad % matrix.cols}]`;
  throw new TuneError("not-finite-weight", `${name} holds NaN or infinity, the first at ${at}: it has no spectrum.`, {
    at: name,
    fix: "use weights from before the training that broke them",
  });
}

/**
 * Compare what two models hold, by name and shape.
 * @throws {TuneError} `models-differ` listing everything that only one of them has, or with other sizes.
 */
export function refuseDifferences(
  base: ReadonlyMap<string, readonly (number | string)[]>,
  tuned: ReadonlyMap<string, readonly (number | string)[]>,
  at: string,
  summary: string,
): void {
  const shown = (shape: readonly (number | string)[]): string => `[${shape.join(", ")}]`;
  const problems = [
    ...[...base].flatMap(([name, shape]) => {
      const other = tuned.get(name);
      if (other === undefined) return [`${name} ${shown(shape)} is in the base alone`];
      if (shown(other) === shown(shape)) return [];
      return [`${name} is ${shown(shape)} in the base and ${shown(other)} in the tuned model`];
    }),
    ...[...tuned].flatMap(([name, shape]) =>
      base.has(name) ? [] : [`${name} ${shown(shape)} is in the tuned model alone`],
    ),
  ];
  if (problems.length === 0) return;
  throw new TuneError("models-differ", listing(`${summary}:`, problems), {
    at,
    fix: "compare a tuned model with the very model that it was tuned from",
  });
}
