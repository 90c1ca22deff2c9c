import {
  type HeadPlan,
  type PretrainedModel,
  plannedAttention,
  type WatchedHead,
  withAttention,
} from "../models/index.ts";

/** A head whose scores grew beyond what it was planned for. */
export interface LeftHead extends WatchedHead {
  /** Its bound on |score| over what the plan allows. */
  readonly share: number;
}

/** How a run attends as it goes on: by a plan, less the heads that have left it. */
export interface Attending {
  /** The model as it attends now. */
  readonly model: PretrainedModel;
  /** Heads of the plan that attend exactly by now. */
  readonly left: readonly WatchedHead[];
  /** What remains of the plan. */
  readonly remaining: number;
  /** Heads that an update found beyond what they were planned for. */
  leaving(shares: Float32Array | undefined): readonly LeftHead[];
  /** The same without these heads. */
  without(heads: readonly WatchedHead[]): Attending;
}

/** A run without a plan attends exactly, and no head leaves. */
export function attendingBy(
  model: PretrainedModel,
  plan: HeadPlan | undefined,
  left: readonly WatchedHead[] = [],
): Attending {
  const gone = (of: WatchedHead): boolean => left.some(({ layer, head }) => layer === of.layer && head === of.head);
  const heads = (plan?.heads ?? []).filter((head) => !gone(head));
  // Batches stay laid out as the plan says, however many heads are left of it.
  const attention = plan && plannedAttention({ ...plan, heads });
  return {
    model: attention ? withAttention(model, attention) : model,
    left,
    remaining: heads.length,
    leaving: (shares) =>
      (attention?.watched ?? []).flatMap(({ layer, head }, i): readonly LeftHead[] => {
        const share = shares?.[i] ?? 0;
        return share > 1 ? [{ layer, head, share }] : [];
      }),
    without: (some) => attendingBy(model, plan, [...left, ...some.map(({ layer, head }) => ({ layer, head }))]),
  };
}
