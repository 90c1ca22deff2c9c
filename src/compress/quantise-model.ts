import { TuneError } from "../errors.ts";
import type { PackedEntry, PackedToWrite } from "../io/packed/index.ts";
import { createRooms, type Rooms } from "../linalg/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import {
  type Algebra,
  type Allocation,
  type AllocationItem,
  createAlgebra,
  deadInputs,
  type Hessian,
  type SchemeChoice,
} from "../quant/index.ts";
import type { Device } from "../runtime/device.ts";
import type { StopSignal } from "../signal.ts";
import type { Sequence } from "../train/data/index.ts";
import { type BlockedModel, type BlockSite, cutIntoBlocks } from "./blocks.ts";
import { type Calibration, layOutCalibration } from "./calibration.ts";
import { advance, carriedFeeds, firstCarried } from "./carry.ts";
import { type Costs, estimateCosts } from "./costs.ts";
import { collectGrams } from "./grams.ts";
import { relativeError } from "./output-error.ts";
import { planBits } from "./plan-bits.ts";
import { deviceProducts } from "./products.ts";
import { breathe, distinctSites, nameOf, reportOf, startMeter, uprightWeight } from "./sites.ts";
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
  | {
      readonly kind: "calibration";
      readonly tokens: number;
      readonly comfortableTokens: number;
      /** What all of it should take. */
      readonly expectedMs: number;
    }
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
  /** Where the model runs on the calibration text. */
  readonly device: Device;
  /** A CPU in this thread, which computes large products of float64 and reads them where they are; none unless given. */
  readonly products?: Device;
  /** Additions and multiplications a second of products in float32 on the device, for the time that is told; a guess unless given. */
  readonly measureSpeed?: () => Promise<number>;
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

/** What a whole run computes with. */
export interface QuantiseTools {
  readonly algebra: Algebra;
  /** Memory of a block's Hessians. */
  readonly grams: Rooms;
  readonly costs: Costs;
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
  const { model, sequences, padId, bits, choice, work, onEvent } = options;
  const cut = blocksToQuantise(model);
  const sites = cut.blocks.flatMap((block) => block.sites);
  const widest = Math.max(...sites.map(({ inFeatures }) => inFeatures));
  const calibration = layOutCalibration(sequences, { padId, widest });
  const { tokens, comfortableTokens } = calibration;
  const products = options.products && deviceProducts(options.products);
  try {
    const algebra = createAlgebra(products?.multiply);
    const costs = await estimateCosts(cut, { tokens, choice, algebra, bits, measureSpeed: options.measureSpeed });
    onEvent?.({ kind: "calibration", tokens, comfortableTokens, expectedMs: costs.expectedMs });
    const tools = { algebra, grams: createRooms(), costs };
    let plan: BitPlan | undefined;
    if (typeof bits !== "number") {
      plan = (await work?.readPlan()) ?? (await planBits(options, cut, calibration, bits, tools));
      if (plan === undefined) return undefined;
      await work?.writePlan(plan);
      onEvent?.({ kind: "plan", plan });
    }
    const planned = new Map(plan?.matrices.map((matrix) => [matrix.name, matrix.bits]));
    const bitsOf = (name: string): number => (typeof bits === "number" ? bits : (planned.get(name) ?? 2));
    return await sweepBlocks(options, cut, calibration, bitsOf, plan, tools);
  } finally {
    await products?.close();
  }
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

async function sweepBlocks(
  { device, work, signal, onEvent, choice }: QuantiseModelOptions,
  cut: BlockedModel,
  calibration: Calibration,
  bitsOf: (name: string) => number,
  plan: BitPlan | undefined,
  { algebra, grams, costs }: QuantiseTools,
): Promise<QuantisedModel | undefined> {
  const matrices: (PackedToWrite | PackedEntry)[] = [];
  const reports: MatrixReport[] = [];
  const total = distinctSites(cut.blocks.flatMap(({ sites }) => sites)).length;
  const meter = startMeter(costs.total);
  let resumed = 0;
  const carried = await firstCarried(device, cut, calibration);
  const feedsOf = (batch: number) => carriedFeeds(carried[batch] ?? []);
  for (const [index, block] of cut.blocks.entries()) {
    const sites = distinctSites(block.sites);
    const kept = await work?.readBlock(index);
    const own: (PackedToWrite | PackedEntry)[] = [...(kept?.matrices ?? [])];
    if (kept) {
      resumed += 1;
      reports.push(...kept.reports);
      meter.skip(costs.grams(block) + sites.reduce((sum, site) => sum + costs.site(site), 0));
    } else {
      if (resumed > 0) onEvent?.({ kind: "resumed", blocks: resumed });
      resumed = 0;
      const hessians = await collectGrams(device, cut, block, calibration.batches, feedsOf, grams);
      meter.tick(costs.grams(block));
      const blockReports: MatrixReport[] = [];
      for (const site of sites) {
        if (signal?.aborted) return undefined;
        const { entry, report } = await quantiseSite(site, hessians(site), bitsOf(nameOf(site)), choice, algebra);
        own.push(entry);
        blockReports.push(report);
        const remainingMs = meter.tick(costs.site(site));
        onEvent?.({ kind: "matrix", report, done: reports.length + blockReports.length, total, remainingMs });
        await breathe();
      }
      reports.push(...blockReports);
      const stored = await work?.writeBlock(index, own as PackedToWrite[], blockReports); // all of them new
      if (stored) own.splice(0, own.length, ...stored);
    }
    matrices.push(...own);
    if (index === cut.blocks.length - 1) break;
    await advance(device, cut, block, calibration, carried, own);
    meter.tick(costs.advance(block));
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
  algebra: Algebra,
): Promise<{ readonly entry: PackedToWrite; readonly report: MatrixReport }> {
  const name = nameOf(site);
  const [rows, columns] = [site.outFeatures, site.inFeatures];
  const weight = await uprightWeight(site, algebra.rooms.float32("weight", rows * columns));
  const { matrix, prepared } = await scheme.quantise({ name, rows, columns, weight, hessian }, bits, config, algebra);
  const dead = deadInputs({ columns, hessian }).reduce((sum, is) => sum + is, 0);
  return {
    entry: { name, stored: site.layout, matrix },
    report: {
      ...reportOf(site, weight, matrix, dead),
      outputError: await relativeError(weight, matrix, hessian, algebra),
      ...(scheme.readsActivations && prepared ? { damping: prepared.damping } : {}),
      ...(prepared?.diagonalOnly ? { diagonalOnly: true } : {}),
    },
  };
}
