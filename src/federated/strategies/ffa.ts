import { orthonormal } from "./orthonormal.ts";
import { anyRule, defineStrategy, moved, replaced, type Strategy } from "./strategy.ts";

/** B alone is trained and averaged, A stays as it was drawn: FFA-LoRA, Sun et al. 2024 (arXiv 2403.12313), §3. */
export const ffa: Strategy<Record<never, never>> = defineStrategy({
  name: "ffa",
  summary: "train B alone, A stays as it was drawn (FFA-LoRA)",
  cite: {
    title: "Improving LoRA in Privacy-preserving Federated Learning",
    authors: "Youbang Sun and Zitao Li and Yaliang Li and Bolin Ding",
    year: 2024,
    arxiv: "2403.12313",
    at: "§3",
  },
  fields: {},
  samples: [{}],
  trains: ["B"],
  rules: anyRule,
  carries: () => false,
  finish: (base, changes, context) => moved(base, changes, context, ["B"]),
  follow: replaced,
});

/**
 * FFA-LoRA with the rows of A made orthonormal once, at the start. A control of ours: with plain gradient descent it computes
 * the same weights as FedSVD from an orthonormal start, as a turn of A that stays orthonormal changes no step in B·A.
 */
export const ffaOrth: Strategy<Record<never, never>> = defineStrategy({
  name: "ffa-orth",
  summary: "train B alone, A stays as it was drawn with its rows made orthonormal (a control)",
  fields: {},
  samples: [{}],
  trains: ["B"],
  rules: anyRule,
  carries: () => false,
  start: orthonormal,
  finish: (base, changes, context) => moved(base, changes, context, ["B"]),
  follow: replaced,
});
