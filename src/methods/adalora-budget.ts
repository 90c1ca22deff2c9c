import { TuneError } from "../errors.ts";

/** When AdaLoRA prunes, and to how many triplets. Updates are counted from 0, as in PEFT and the authors' code. */
export interface BudgetPlan {
  /** Triplets of all matrices, before and after. */
  readonly initial: number;
  readonly target: number;
  readonly steps: number;
  /** No pruning up to this update. */
  readonly warmup: number;
  /** The update of the last selection; importance is not tracked from `steps − final` on. */
  readonly lastSelection: number;
  readonly final: number;
  readonly every: number;
}

/** What one update does about the budget. */
export interface BudgetStep {
  readonly budget: number;
  /** Whether importance takes this update in. */
  readonly tracks: boolean;
  /** Whether what to prune is chosen anew. */
  readonly selects: boolean;
  /** Whether what is pruned is set to zero. */
  readonly masks: boolean;
}

/** A number of updates; below 1 it is a share of the run's. */
export function updatesOf(given: number, steps: number): number {
  return given < 1 ? Math.floor(given * steps) : Math.round(given);
}

/**
 * Lay a run out.
 * @throws {TuneError} `bad-option` where nothing would be pruned, or the phases do not fit into the run.
 */
export function planBudget(
  steps: number,
  options: {
    readonly budgetWarmup: number;
    readonly budgetFinal: number;
    readonly budgetEvery: number;
    readonly initialRank: number;
    readonly targetRank: number;
  },
  { initial, target }: { readonly initial: number; readonly target: number },
): BudgetPlan {
  const [warmup, final] = [updatesOf(options.budgetWarmup, steps), updatesOf(options.budgetFinal, steps)];
  const problems: string[] = [];
  if (target >= initial) {
    problems.push(
      `targetRank is ${options.targetRank}, but it must be below initialRank, which is ${options.initialRank}: nothing would be pruned`,
    );
  }
  if (warmup >= steps - final) {
    problems.push(
      `budgetWarmup and budgetFinal take ${warmup} and ${final} updates, but the run has ${steps}: none is left to prune in`,
    );
  }
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, {
      at: "adalora",
      fix: "prune for about half of the run, say budgetWarmup 0.1 and budgetFinal 0.4, to two thirds of initialRank; or use lora",
    });
  }
  const lastSelection = Math.min(steps - final, steps - 1);
  return { initial, target, steps, warmup, final, every: options.budgetEvery, lastSelection };
}

/**
 * The cubic schedule of Zhang et al. 2023, §3.3, as PEFT and the authors' code have it (eq. (14) as printed starts above
 * the initial budget). The last selection is made whatever `every` says, and what it prunes stays zero.
 */
export function budgetAt(plan: BudgetPlan, t: number): BudgetStep {
  const { initial, target, steps, warmup, final, every, lastSelection } = plan;
  const tracks = t < steps - final;
  if (t >= lastSelection) return { budget: target, tracks, selects: t === lastSelection, masks: true };
  if (t <= warmup) return { budget: initial, tracks, selects: false, masks: false };
  const left = 1 - (t - warmup) / (steps - final - warmup);
  const due = t % every === 0;
  return { budget: Math.trunc((initial - target) * left ** 3 + target), tracks, selects: due, masks: due };
}
