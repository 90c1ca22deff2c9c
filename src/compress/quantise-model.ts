import { assert, TuneError } from "../errors.ts";
import { computedTensor, type Tensor, type Value, weight } from "../graph/index.ts";
import { dequantise, type PackedEntry, type PackedToWrite, transposed } from "../io/packed/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import {
  type Allocation,
  type AllocationItem,
  allocate,
  allocateByRule,
  type Hessian,
  importance,
  prepareHessian,
  type SchemeChoice,
} from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import { withShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import type { StopSignal } from "../signal.ts";
import type { Sequence } from "../train/data/index.ts";
import {
  type Block,
  type BlockedModel,
  type BlockSite,
  carriedName,
  cutIntoBlocks,
  forwardGraph,
  gramGraph,
  resultName,
  tokenRows,
} from "./blocks.ts";
import { type Calibration, type CalibrationBatch, layOutCalibration } from "./calibration.ts";
import { breathe, distinctSites, nameOf, startMeter, uprightWeight, weightError } from "./sites.ts";
import type { WorkFolder } from "./work-folder.ts";

/** One number of planes for every matrix, or an average to be spent where it helps most. */
export type BitsChoice = number | MixedBits;

/** An average number of planes a weight. */
export interface MixedBits {
  readonly average: number;
  /** Numbers of planes that a matrix may have; 2, 3 and 4 unless given. */
  readonly choices?: readonly number[];
  /** `programme`: by the measured errors, exactly. `rule`: the most important matrices get one more. */
  readonly by?: "programme" | "rule";
}

/** What was measured of a matrix before bits were allocated. */
export interface PlannedMatrix extends AllocationItem {
  /** See {@link importance}. */
  readonly importance: number;
  readonly bits: number;
}

/** How many planes each matrix gets. */
export interface BitPlan extends Omit<Allocation, "bits"> {
  readonly matrices: readonly PlannedMatrix[];
  readonly choices: readonly number[];
}

/** What was done to a matrix. */
export interface MatrixReport {
  readonly name: string;
  readonly module: string;
  readonly bits: number;
  readonly rows: number;
  readonly columns: number;
  /** ‖X(W − Ŵ)ᵀ‖²/‖XWᵀ‖² on the calibration text, where there was one. */
  readonly outputError?: number;
  /** ‖W − Ŵ‖²/‖W‖². */
  readonly weightError: number;
  /** Share of the mean diagonal that the Hessian was damped by, where the scheme factors one. */
  readonly damping?: number;
  /** No damping sufficed, and only the diagonal was used. */
  readonly diagonalOnly?: boolean;
  /** Inputs that were 0 on every token. */
  readonly deadInputs: number;
}

/** What happens while a model is quantised. */
export type QuantiseEvent =
  | { readonly kind: "calibration"; readonly tokens: number; readonly comfortableTokens: number }
  /** One matrix has been measured for the plan. */
  | {
      readonly kind: "measured";
      readonly name: string;
      readonly done: number;
      readonly total: number;
      readonly remainingMs: number;
    }
  | { readonly kind: "plan"; readonly plan: BitPlan }
  /** Blocks that an earlier run had finished. */
  | { readonly kind: "resumed"; readonly blocks: number }
  | {
      readonly kind: "matrix";
      readonly report: MatrixReport;
      readonly done: number;
      readonly total: number;
      readonly remainingMs: number;
    };

/** What is quantised how. */
export interface QuantiseModelOptions {
  readonly device: Device;
  readonly model: PretrainedModel;
  /** Calibration text as tokens. */
  readonly sequences: readonly Sequence[];
  readonly padId: number;
  readonly choice: SchemeChoice;
  readonly bits: BitsChoice;
  /** Where finished blocks are kept until the model is written; in memory when absent. */
  readonly work?: WorkFolder;
  /** Stops after the current matrix when aborted. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: QuantiseEvent) => void;
}

/** A quantised model, not yet written. */
export interface QuantisedModel {
  readonly matrices: readonly (PackedToWrite | PackedEntry)[];
  readonly reports: readonly MatrixReport[];
  readonly plan: BitPlan | undefined;
  readonly tokens: number;
}

/**
 * Quantise every linear map of a model but the output layer, block by block: the inputs of a block's maps are those
 * that the already quantised blocks before it give; its maps are quantised from what these inputs are; then its outputs
 * are computed anew. One block's weights and the activations between two blocks are in memory at a time.
 * @returns undefined when it was aborted; what was finished is in the work folder.
 * @throws {TuneError} `nothing-to-quantise`, `bad-calibration`, `bad-option`, `not-finite-weight`.
 */
export async function quantiseModel(options: QuantiseModelOptions): Promise<QuantisedModel | undefined> {
  const { model, sequences, padId, bits, work, onEvent } = options;
  const cut = blocksToQuantise(model);
  const sites = cut.blocks.flatMap((block) => block.sites);
  const widest = Math.max(...sites.map(({ inFeatures }) => inFeatures));
  const calibration = layOutCalibration(sequences, { padId, widest });
  onEvent?.({ kind: "calibration", tokens: calibration.tokens, comfortableTokens: calibration.comfortableTokens });

  let plan: BitPlan | undefined;
  if (typeof bits !== "number") {
    plan = (await work?.readPlan()) ?? (await planBits(options, cut, calibration, bits));
    if (plan === undefined) return undefined;
    await work?.writePlan(plan);
    onEvent?.({ kind: "plan", plan });
  }
  const planned = new Map(plan?.matrices.map((matrix) => [matrix.name, matrix.bits]));
  const bitsOf = (name: string): number => (typeof bits === "number" ? bits : (planned.get(name) ?? 2));
  return sweepBlocks(options, cut, calibration, bitsOf, plan);
}

/** A model's blocks. @throws {TuneError} `nothing-to-quantise`. */
export function blocksToQuantise(model: PretrainedModel): BlockedModel {
  const cut = cutIntoBlocks(model.loss(), model.architecture.outputModule);
  if (cut.blocks.some(({ sites }) => sites.length > 0)) return cut;
  throw new TuneError("nothing-to-quantise", "The model has no numbered layers with linear maps.", {
    at: model.folder,
    fix: "quantise a decoder-only language model",
  });
}

/** What the sweep of a matrix costs, in proportion: rows·columns², and what goes by weights. */
function sweepCost({ outFeatures, inFeatures }: BlockSite): number {
  return outFeatures * inFeatures * (inFeatures + 2000);
}

async function sweepBlocks(
  { device, choice, work, signal, onEvent }: QuantiseModelOptions,
  cut: BlockedModel,
  calibration: Calibration,
  bitsOf: (name: string) => number,
  plan: BitPlan | undefined,
): Promise<QuantisedModel | undefined> {
  const matrices: (PackedToWrite | PackedEntry)[] = [];
  const reports: MatrixReport[] = [];
  const total = distinctSites(cut.blocks.flatMap(({ sites }) => sites)).length;
  const meter = startMeter(
    cut.blocks.flatMap(({ sites }) => sites),
    sweepCost,
  );
  let resumed = 0;
  let carried = await firstCarried(device, cut, calibration);
  for (const [index, block] of cut.blocks.entries()) {
    const sites = distinctSites(block.sites);
    const kept = await work?.readBlock(index);
    const own: (PackedToWrite | PackedEntry)[] = [...(kept?.matrices ?? [])];
    if (kept) {
      resumed += 1;
      reports.push(...kept.reports);
      meter.skip(sites);
    } else {
      if (resumed > 0) onEvent?.({ kind: "resumed", blocks: resumed });
      resumed = 0;
      const hessians = await collect(device, cut, block, calibration, carried);
      const blockReports: MatrixReport[] = [];
      for (const site of sites) {
        if (signal?.aborted) return undefined;
        const hessian = hessians(site);
        const { entry, report } = await quantiseSite(site, hessian, bitsOf(nameOf(site)), choice);
        own.push(entry);
        blockReports.push(report);
        const remainingMs = meter.tick(site);
        onEvent?.({ kind: "matrix", report, done: reports.length + blockReports.length, total, remainingMs });
        await breathe();
      }
      reports.push(...blockReports);
      const stored = await work?.writeBlock(index, own as PackedToWrite[], blockReports); // all of them new
      if (stored) own.splice(0, own.length, ...stored);
    }
    matrices.push(...own);
    if (index < cut.blocks.length - 1) carried = await advance(device, cut, block, calibration, carried, own);
  }
  if (resumed > 0) onEvent?.({ kind: "resumed", blocks: resumed });
  return { matrices, reports, plan, tokens: calibration.tokens };
}

/** Quantise one weight; what it is stored as decides its error. */
async function quantiseSite(
  site: BlockSite,
  hessian: Hessian,
  bits: number,
  { scheme, config }: SchemeChoice,
): Promise<{ readonly entry: PackedToWrite; readonly report: MatrixReport }> {
  const name = nameOf(site);
  const upright = await uprightWeight(site);
  const shape = { name, rows: site.outFeatures, columns: site.inFeatures };
  const { matrix, prepared } = scheme.quantise({ ...shape, weight: upright, hessian }, bits, config);
  const dead = diagonalZeros(hessian);
  const values = dequantise(matrix);
  return {
    entry: { name, stored: site.layout, matrix },
    report: {
      name,
      module: site.module,
      bits,
      rows: shape.rows,
      columns: shape.columns,
      outputError: relativeError(upright, values, hessian),
      weightError: weightError(upright, values),
      ...(scheme.readsActivations && prepared ? { damping: prepared.damping } : {}),
      ...(prepared?.diagonalOnly ? { diagonalOnly: true } : {}),
      deadInputs: dead,
    },
  };
}

/**
 * Measure what every number of planes costs each matrix, with the inputs that the unquantised model gives it, and spend
 * the average.
 */
async function planBits(
  { device, choice, signal, onEvent }: QuantiseModelOptions,
  cut: BlockedModel,
  calibration: Calibration,
  { average, choices = [2, 3, 4], by = "programme" }: MixedBits,
): Promise<BitPlan | undefined> {
  const sorted = [...choices].sort((a, b) => a - b);
  const items: (AllocationItem & { readonly importance: number })[] = [];
  const total = distinctSites(cut.blocks.flatMap(({ sites }) => sites)).length;
  const meter = startMeter(
    cut.blocks.flatMap(({ sites }) => sites),
    sweepCost,
  );
  let carried = await firstCarried(device, cut, calibration);
  for (const [index, block] of cut.blocks.entries()) {
    const hessians = await collect(device, cut, block, calibration, carried);
    for (const site of distinctSites(block.sites)) {
      if (signal?.aborted) return undefined;
      const name = nameOf(site);
      const hessian = hessians(site);
      const upright = await uprightWeight(site);
      const shape = { name, rows: site.outFeatures, columns: site.inFeatures };
      const prepared = prepareHessian(hessian, { damping: 0.01, activationOrder: false });
      const costs: number[] = [];
      for (const bits of sorted) {
        const { matrix } = choice.scheme.quantise({ ...shape, weight: upright, hessian }, bits, choice.config);
        costs.push(relativeError(upright, dequantise(matrix), hessian));
        await breathe();
      }
      items.push({
        name,
        size: shape.rows * shape.columns,
        costs,
        importance: importance(upright, shape.rows, prepared),
      });
      onEvent?.({ kind: "measured", name, done: items.length, total, remainingMs: meter.tick(site) });
    }
    if (index < cut.blocks.length - 1) carried = await advance(device, cut, block, calibration, carried, []);
  }
  const allocation = by === "rule" ? allocateByRule(items, sorted, average) : allocate(items, sorted, average);
  return {
    matrices: items.map((item, i) => ({ ...item, bits: allocation.bits[i] ?? 2 })),
    choices: sorted,
    averageBits: allocation.averageBits,
    cost: allocation.cost,
    exact: allocation.exact,
  };
}

/** What crosses into the first block: embeddings. One list of tensors a batch. */
function firstCarried(device: Device, cut: BlockedModel, { batches }: Calibration): Promise<readonly Carried[]> {
  const [first] = cut.blocks;
  assert(first !== undefined, "there are blocks");
  const before = { carriedIn: [], carriedOut: first.carriedIn };
  return run(
    device,
    cut,
    before,
    batches,
    batches.map(() => []),
    () => undefined,
  );
}

/** Tensors that cross into a block, for one batch. */
type Carried = readonly Tensor[];

/** Run a block with its weights replaced by the packed ones. */
function advance(
  device: Device,
  cut: BlockedModel,
  block: Block,
  { batches }: Calibration,
  carried: readonly Carried[],
  packed: readonly (PackedToWrite | PackedEntry)[],
): Promise<readonly Carried[]> {
  const byName = new Map(packed.map((entry) => [entry.name, entry]));
  return run(device, cut, block, batches, carried, (value) => {
    const entry = value.kind === "weight" ? byName.get(value.name) : undefined;
    if (value.kind !== "weight" || entry === undefined) return undefined;
    const decoded = computedTensor(value.source.shape, async () => {
      const matrix = "matrix" in entry ? entry.matrix : await entry.read();
      const data = dequantise(matrix);
      return entry.stored === "out,in" ? data : transposed(data, matrix.rows, matrix.columns);
    });
    return weight(value.name, decoded);
  });
}

async function run(
  device: Device,
  cut: BlockedModel,
  block: Pick<Block, "carriedIn" | "carriedOut">,
  batches: readonly CalibrationBatch[],
  carried: readonly Carried[],
  replace: (value: Value) => Value | undefined,
): Promise<readonly Carried[]> {
  return withShare(device, async (share) => {
    const program = await compileGraph(share, forwardGraph(cut, block, replace));
    const results: Carried[] = [];
    for (const [i, batch] of batches.entries()) {
      const outputs = await program.run({ feeds: { ...batch.feeds, ...carriedFeeds(carried[i] ?? []) } });
      results.push(block.carriedOut.map((_, j) => outputs[resultName(j)] as Tensor)); // as the graph names them
    }
    return results;
  });
}

function carriedFeeds(carried: Carried): Readonly<Record<string, Tensor>> {
  return Object.fromEntries(carried.map((tensor, i) => [carriedName(i), tensor]));
}

/** Σ x·xᵀ of the inputs of a block's maps over all calibration tokens, summed in float64 over batches. */
async function collect(
  device: Device,
  cut: BlockedModel,
  block: Block,
  { batches }: Calibration,
  carried: readonly Carried[],
): Promise<(site: BlockSite) => Hessian> {
  const { graph, gramOf } = gramGraph(cut, block);
  const sums = new Map<string, Float64Array>();
  await withShare(device, async (share) => {
    const program = await compileGraph(share, graph);
    for (const [i, batch] of batches.entries()) {
      const feeds = { ...batch.feeds, ...carriedFeeds(carried[i] ?? []), [tokenRows]: batch.rows };
      for (const [name, { data }] of Object.entries(await program.run({ feeds }))) {
        const sum = sums.get(name) ?? new Float64Array(data.length);
        for (let j = 0; j < sum.length; j++) sum[j] = (sum[j] ?? 0) + Number(data[j]);
        sums.set(name, sum);
      }
    }
  });
  return ({ module, inFeatures }) => {
    const values = sums.get(gramOf.get(module) ?? "");
    assert(values !== undefined, () => `${module} has its inputs measured`);
    if (!values.every(Number.isFinite)) {
      throw new TuneError("bad-calibration", `The inputs of ${module} hold NaN or infinity on the calibration text.`, {
        at: module,
        fix: "check that the model computes finite losses on it (scion eval)",
      });
    }
    return { columns: inFeatures, values };
  };
}

/** trace(D·H·Dᵀ)/trace(W·H·Wᵀ), D = W − Ŵ. */
function relativeError(weight: Float32Array, quantised: Float32Array, { columns, values }: Hessian): number {
  const rows = weight.length / columns;
  let error = 0;
  let whole = 0;
  const difference = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    const w = weight.subarray(row * columns, (row + 1) * columns);
    for (let k = 0; k < columns; k++) difference[k] = (w[k] ?? 0) - (quantised[row * columns + k] ?? 0);
    error += quadratic(difference, values, columns);
    whole += quadratic(w, values, columns);
  }
  return whole > 0 ? error / whole : 0;
}

function quadratic(x: Float32Array | Float64Array, h: Float64Array, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const own = x[i] ?? 0;
    if (own === 0) continue;
    let along = 0.5 * (h[i * n + i] ?? 0) * own;
    for (let j = i + 1; j < n; j++) along += (h[i * n + j] ?? 0) * (x[j] ?? 0);
    sum += 2 * own * along;
  }
  return sum;
}

function diagonalZeros({ columns, values }: Hessian): number {
  let count = 0;
  for (let i = 0; i < columns; i++) if ((values[i * columns + i] ?? 0) <= 0) count += 1;
  return count;
}
