import { assert } from "../errors.ts";
import { computedTensor, type Tensor, type Value, weight } from "../graph/index.ts";
import { dequantise, type PackedEntry, type PackedToWrite, transposed } from "../io/packed/index.ts";
import type { Device } from "../runtime/device.ts";
import { withShare } from "../runtime/device-share.ts";
import { compileGraph } from "../runtime/program.ts";
import { type Block, type BlockedModel, carriedName, forwardGraph, resultName } from "./blocks.ts";
import type { Calibration, CalibrationBatch } from "./calibration.ts";

/** What crosses into the first block: embeddings. One list of tensors a batch. */
export async function firstCarried(device: Device, cut: BlockedModel, { batches }: Calibration): Promise<Carried[]> {
  const [first] = cut.blocks;
  assert(first !== undefined, "there are blocks");
  const before = { carriedIn: [], carriedOut: first.carriedIn };
  const carried: Carried[] = batches.map(() => []);
  await run(device, cut, before, batches, carried, () => undefined);
  return carried;
}

/** Tensors that cross into a block, for one batch. */
export type Carried = readonly Tensor[];

/** Run a block with its weights replaced by the packed ones; what it carries on takes the place of what was carried in. */
export function advance(
  device: Device,
  cut: BlockedModel,
  block: Block,
  { batches }: Calibration,
  carried: Carried[],
  packed: readonly (PackedToWrite | PackedEntry)[],
): Promise<void> {
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
  carried: Carried[],
  replace: (value: Value) => Value | undefined,
): Promise<void> {
  return withShare(device, async (share) => {
    const program = await compileGraph(share, forwardGraph(cut, block, replace));
    for (const [i, batch] of batches.entries()) {
      const outputs = await program.run({ feeds: { ...batch.feeds, ...carriedFeeds(carried[i] ?? []) } });
      carried[i] = block.carriedOut.map((_, j) => outputs[resultName(j)] as Tensor); // as the graph names them
    }
  });
}

/** What is carried, by the names of a program's inputs. */
export function carriedFeeds(carried: Carried): Readonly<Record<string, Tensor>> {
  return Object.fromEntries(carried.map((tensor, i) => [carriedName(i), tensor]));
}
