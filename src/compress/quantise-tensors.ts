import type { PackedEntry, PackedToWrite } from "../io/packed/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { type Algebra, createAlgebra, type SchemeChoice } from "../quant/index.ts";
import type { StopSignal } from "../signal.ts";
import type { BlockSite } from "./blocks.ts";
import { blocksToQuantise, type MatrixReport, type QuantisedModel, type QuantiseEvent } from "./quantise-model.ts";
import { breathe, distinctSites, nameOf, reportOf, startMeter, uprightWeight } from "./sites.ts";
import type { WorkFolder } from "./work-folder.ts";

/** What is quantised how, without text. */
export interface QuantiseTensorsOptions {
  readonly model: PretrainedModel;
  /** A scheme that does not need calibration at its options. */
  readonly choice: SchemeChoice;
  /** Planes of every matrix. */
  readonly bits: number;
  /** Where finished blocks are kept until the model is written; in memory when absent. */
  readonly work?: WorkFolder;
  /** Stops after the current matrix when aborted. */
  readonly signal?: StopSignal;
  readonly onEvent?: (event: QuantiseEvent) => void;
}

/**
 * Quantise every linear map of a model but the output layer, a tensor at a time and with nothing but the tensor: no text
 * is read and no program runs. One weight and what becomes of it are in memory at a time, where there is a work folder.
 * @returns undefined when it was aborted; what was finished is in the work folder.
 * @throws {TuneError} `nothing-to-quantise`, `not-finite-weight`.
 */
export async function quantiseTensors(options: QuantiseTensorsOptions): Promise<QuantisedModel | undefined> {
  const { model, choice, bits, work, signal, onEvent } = options;
  const { blocks } = blocksToQuantise(model);
  const sites = blocks.flatMap((block) => block.sites);
  const total = distinctSites(sites).length;
  const cost = ({ outFeatures, inFeatures }: BlockSite): number => outFeatures * inFeatures;
  const meter = startMeter(distinctSites(sites).reduce((sum, site) => sum + cost(site), 0));
  const matrices: (PackedToWrite | PackedEntry)[] = [];
  const reports: MatrixReport[] = [];
  const algebra = createAlgebra();
  let resumed = 0;
  for (const [index, block] of blocks.entries()) {
    const own = distinctSites(block.sites);
    const kept = await work?.readBlock(index);
    if (kept) {
      resumed += 1;
      matrices.push(...kept.matrices);
      reports.push(...kept.reports);
      for (const site of own) meter.skip(cost(site));
      continue;
    }
    if (resumed > 0) onEvent?.({ kind: "resumed", blocks: resumed });
    resumed = 0;
    const made: PackedToWrite[] = [];
    const first = reports.length;
    for (const site of own) {
      if (signal?.aborted) return undefined;
      const { entry, report } = await quantiseTensor(site, bits, choice, algebra);
      made.push(entry);
      reports.push(report);
      onEvent?.({ kind: "matrix", report, done: reports.length, total, remainingMs: meter.tick(cost(site)) });
      await breathe();
    }
    matrices.push(...((await work?.writeBlock(index, made, reports.slice(first))) ?? made));
  }
  if (resumed > 0) onEvent?.({ kind: "resumed", blocks: resumed });
  return { matrices, reports, plan: undefined, tokens: 0 };
}

async function quantiseTensor(
  site: BlockSite,
  bits: number,
  { scheme, config }: SchemeChoice,
  algebra: Algebra,
): Promise<{ readonly entry: PackedToWrite; readonly report: MatrixReport }> {
  const name = nameOf(site);
  const [rows, columns] = [site.outFeatures, site.inFeatures];
  const weight = await uprightWeight(site, algebra.rooms.float32("weight", rows * columns));
  const { matrix } = await scheme.quantise({ name, rows, columns, weight }, bits, config, algebra);
  return { entry: { name, stored: site.layout, matrix }, report: reportOf(site, weight, matrix, 0) };
}
