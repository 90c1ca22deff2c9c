import type { Algebra, SchemeChoice } from "../quant/index.ts";
import type { Block, BlockedModel, BlockSite } from "./blocks.ts";
import type { BitsChoice } from "./quantise-model.ts";
import { distinctSites } from "./sites.ts";

/** What the parts of quantising a model should take, in milliseconds. */
export interface Costs {
  /** All of it, measuring for mixed bits included. */
  readonly expectedMs: number;
  /** All of it but measuring for mixed bits. */
  readonly total: number;
  /** Measuring for mixed bits, at so many numbers of planes. */
  plan(choices: number): number;
  /** The inputs of a block's maps on all tokens. */
  grams(block: Block): number;
  /** A weight, at one number of planes or at several. */
  site(site: BlockSite, choices?: number): number;
  /** A block's outputs on all tokens. */
  advance(block: Block): number;
}

/** How fast this machine does what takes the time. */
interface Speeds {
  /** Additions and multiplications a second, of products in float32 on the device and in float64 where they are computed. */
  readonly float32: number;
  readonly float64: number;
  /** Seconds to round a weight, and to find its scales. */
  readonly weight: number;
}

/** What a small machine does; a small model takes seconds on any. */
const modest: Speeds = { float32: 5e10, float64: 5e8, weight: 3e-7 };

/** Operations below which measuring a machine would take longer than it tells. */
const worthMeasuring = 1e12;

/**
 * What quantising a model should take: its arithmetic, at the speeds of this machine, which are measured where there is much
 * to do. Takes about two seconds then.
 */
export async function estimateCosts(
  cut: BlockedModel,
  how: {
    readonly tokens: number;
    /** Additions and multiplications a second of products in float32 where the model runs; guessed unless given. */
    readonly measureSpeed?: (() => Promise<number>) | undefined;
    readonly choice: SchemeChoice;
    readonly algebra: Algebra;
    readonly bits: BitsChoice;
  },
): Promise<Costs> {
  const { tokens, bits } = how;
  const weights = sum(distinctSites(cut.blocks.flatMap(({ sites }) => sites)), sizeOf);
  const speeds = 4 * tokens * weights < worthMeasuring ? modest : await measure(how);
  const { readsActivations } = how.choice.scheme;
  const { float32, float64, weight } = speeds;
  const forward = (block: Block): number => (2 * tokens * sum(distinctSites(block.sites), sizeOf)) / float32;
  const grams = (block: Block): number => {
    // Sites that read the same input follow one another; of a wide gram, a half and the diagonal are computed.
    const widths = new Map(block.sites.map(({ x, inFeatures }) => [x, inFeatures]));
    return forward(block) + sum([...widths.values()], (n) => (1.3 * tokens * n * n) / float32);
  };
  const firsts = new Set(
    cut.blocks.flatMap(({ sites }) => sites.filter(({ x }, i) => sites.findIndex((other) => other.x === x) === i)),
  );
  const site = (own: BlockSite, choices = 1): number => {
    const { outFeatures: rows, inFeatures: n } = own;
    const factor = readsActivations && firsts.has(own) ? (0.75 * n ** 3) / float64 : 0;
    const sweep = readsActivations ? (rows * n * n) / float64 : 0;
    const error = (2 * rows * n * n) / (how.algebra.multiply ? float32 : float64);
    return factor + choices * (sweep + error + rows * n * weight);
  };
  const block = (one: Block, choices: number): number =>
    grams(one) + forward(one) + sum(distinctSites(one.sites), (own) => site(own, choices));
  const ms = 1000;
  const plan = (choices: number): number => ms * sum(cut.blocks, (one) => block(one, choices));
  const total = ms * sum(cut.blocks, (one) => block(one, 1));
  const measuring = typeof bits === "number" ? 0 : plan(bits.choices?.length ?? 3);
  return {
    expectedMs: total + measuring,
    total,
    plan,
    grams: (one) => ms * grams(one),
    site: (own, choices) => ms * site(own, choices),
    advance: (one) => ms * forward(one),
  };
}

async function measure({
  measureSpeed,
  choice: { scheme, config },
  algebra,
  bits,
}: Parameters<typeof estimateCosts>[1]): Promise<Speeds> {
  const planes = typeof bits === "number" ? bits : Math.round(bits.average);
  const [rows, columns] = [2048, 64];
  // Numbers from −1 to 1 that are spread out; uncorrelated inputs.
  const weight = Float32Array.from({ length: rows * columns }, (_, i) => 2 * ((i * 0.6180339887) % 1) - 1);
  const values = Float64Array.from({ length: columns * columns }, (_, i) => Number(i % (columns + 1) === 0));
  const site = { name: "a trial", rows, columns, weight, hessian: { columns, values } };
  const trial = await secondsOf(async () => void (await scheme.quantise(site, planes, config, algebra)));
  const { multiply } = algebra;
  const size = 1024;
  const square = { rows: size, cols: size, data: new Float64Array(size * size).fill(1) };
  const product = multiply && (await secondsOf(async () => void (await multiply(square, square, { transB: true }))));
  return {
    float32: (await measureSpeed?.()) ?? modest.float32,
    float64: product === undefined ? modest.float64 : (2 * size ** 3) / product,
    weight: trial / (rows * columns),
  };
}

/** The quicker of two runs: the first also compiles. */
async function secondsOf(run: () => Promise<void>): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 2; i++) {
    const started = performance.now();
    await run();
    times.push((performance.now() - started) / 1000);
  }
  return Math.min(...times);
}

function sizeOf({ outFeatures, inFeatures }: BlockSite): number {
  return outFeatures * inFeatures;
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
