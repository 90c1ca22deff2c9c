import { TuneError } from "../errors.ts";

/** A matrix that may have any of several numbers of planes. */
export interface AllocationItem {
  readonly name: string;
  /** Weights, which the budget counts by. */
  readonly size: number;
  /** What the matrix costs the model at each number of planes; less is better. By index of the choices. */
  readonly costs: readonly number[];
}

/** Numbers of planes by matrix, in the order of the items. */
export interface Allocation {
  readonly bits: readonly number[];
  /** Planes a weight, averaged over weights. */
  readonly averageBits: number;
  /** Sum of the costs chosen. */
  readonly cost: number;
  /** Whether it is known to be the best, or was found by the steepest descents alone. */
  readonly exact: boolean;
}

/** Steps of the budget beyond which the programme is solved approximately. */
const largestTable = 4_000_000;

/**
 * Spend an average number of planes a weight where it lowers the total cost most: the integer programme
 * min Σ cost[i, bits(i)] subject to Σ size·bits ≤ average·Σ size, solved exactly by dynamic programming over the budget.
 * You et al. 2024 (arXiv 2406.05981), §4.3, with the budget counted in weights instead of layers. Ties go to fewer
 * planes in earlier matrices. Where the budget has too many steps, they are rounded up to coarser ones.
 * @throws {TuneError} `bad-option` when even the fewest planes exceed the budget.
 */
export function allocate(
  items: readonly AllocationItem[],
  choices: readonly number[],
  averageBits: number,
): Allocation {
  const total = items.reduce((sum, { size }) => sum + size, 0);
  const budget = Math.floor(averageBits * total + 1e-6 * total);
  const least = Math.min(...choices);
  if (budget < least * total) {
    throw new TuneError("bad-option", `An average of ${averageBits} bits is less than the fewest, ${least}.`, {
      at: "bits",
      fix: `ask for an average of ${least} or more`,
    });
  }
  // Only what goes beyond the fewest planes is spent.
  const unit = items.reduce((divisor, { size }) => greatestCommonDivisor(divisor, size), 0) || 1;
  const spare = Math.floor((budget - least * total) / unit);
  const coarse = Math.max(1, Math.ceil((spare * items.length) / largestTable));
  const steps = Math.floor(spare / coarse);
  const price = (size: number, bits: number): number => Math.ceil(((bits - least) * size) / unit / coarse);
  const width = steps + 1;
  let best = new Float64Array(width);
  const taken: Uint8Array[] = [];
  // From the last matrix to the first, so that the first is decided first and ties leave it fewer planes.
  for (const { size, costs } of items.toReversed()) {
    const next = new Float64Array(width).fill(Number.POSITIVE_INFINITY);
    const choice = new Uint8Array(width);
    choices.forEach((bits, c) => {
      const spent = price(size, bits);
      for (let step = spent; step < width; step++) {
        const cost = (best[step - spent] ?? 0) + (costs[c] ?? 0);
        if (cost < (next[step] ?? 0)) {
          next[step] = cost;
          choice[step] = c;
        }
      }
    });
    best = next;
    taken.push(choice);
  }
  const bits: number[] = [];
  let step = steps;
  items.forEach(({ size }, i) => {
    const chosen = choices[taken[items.length - 1 - i]?.[step] ?? 0] ?? least;
    bits.push(chosen);
    step -= price(size, chosen);
  });
  return { ...describe(items, choices, bits), exact: coarse === 1 };
}

/**
 * The rule of the released code: the share of the weights whose matrices matter most gets one plane more than the rest,
 * 20 % at 2.2 bits. Importances by matrix, from {@link importance}.
 */
export function allocateByRule(
  items: readonly (AllocationItem & { readonly importance: number })[],
  choices: readonly number[],
  averageBits: number,
): Allocation {
  const low = Math.floor(averageBits);
  const total = items.reduce((sum, { size }) => sum + size, 0);
  let left = (averageBits - low) * total + 1e-6 * total;
  const more = new Set<AllocationItem>();
  for (const item of items.toSorted((a, b) => b.importance - a.importance)) {
    if (item.size > left) break;
    more.add(item);
    left -= item.size;
  }
  const bits = items.map((item) => (more.has(item) ? low + 1 : low));
  return { ...describe(items, choices, bits), exact: false };
}

function describe(
  items: readonly AllocationItem[],
  choices: readonly number[],
  bits: readonly number[],
): Omit<Allocation, "exact"> {
  const total = items.reduce((sum, { size }) => sum + size, 0);
  return {
    bits,
    averageBits: items.reduce((sum, { size }, i) => sum + size * (bits[i] ?? 0), 0) / total,
    cost: items.reduce((sum, { costs }, i) => sum + (costs[choices.indexOf(bits[i] ?? 0)] ?? Number.NaN), 0),
  };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
