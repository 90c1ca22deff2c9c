import { type Fields, flag, integer } from "../../fields.ts";
import { createRng, type Floats, type Matrix, matrixLike } from "../../linalg/index.ts";
import type { Citation } from "../../methods/index.ts";
import {
  type Factors,
  inOrder,
  matrixOf,
  type Piece,
  type Pieces,
  pieceName,
  pieceOf,
  type Tuned,
} from "../factors.ts";
import { type Refactored, refactor, turnedBy } from "../refactor.ts";
import { refresh } from "../refresh.ts";
import { orthonormal } from "./orthonormal.ts";
import { withProduct } from "./residual.ts";
import { anyRule, defineStrategy, moved, type RoundContext, type Strategy } from "./strategy.ts";

const cite: Citation = {
  title: "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA",
  authors:
    "Seanie Lee and Sangwoo Park and Dong Bok Lee and Dominik Wagner and Haebin Seong and Tobias Bocklet and Juho Lee and Sung Ju Hwang",
  year: 2025,
  arxiv: "2505.12805",
  at: "§3, Algorithm 1",
};

/** Options of FedSVD. */
export interface FedSvdConfig {
  readonly period: number;
  readonly orthonormalStart: boolean;
  readonly refreshEvery: number;
  readonly refreshKeep: number;
}

const fields: Fields<FedSvdConfig> = {
  period: integer(1, "rounds between two refactors of B·A", { min: 1 }),
  orthonormalStart: flag(true, "make the rows of A orthonormal before the first round (the paper does not)"),
  refreshEvery: integer(0, "rounds between two refreshes, an extension of ours; 0 does without", { min: 0 }),
  refreshKeep: {
    ...integer(4, "directions that a refresh keeps; the others go into the weights and are drawn anew", { min: 0 }),
    idle: ({ refreshEvery }) => (refreshEvery === 0 ? "nothing is refreshed (refreshEvery)" : undefined),
  },
};

/**
 * B alone is trained and averaged; between rounds B·A is refactored, so that the rows of A are orthonormal. What is told is B'
 * and the small M with A' = M·A. With `refreshEvery`, weak directions are folded into the weights and drawn anew; clients repeat
 * that from what they were told.
 */
export const fedsvd: Strategy<FedSvdConfig> = defineStrategy({
  name: "fedsvd",
  summary: "train B alone; between rounds an SVD of B·A makes the rows of A orthonormal (FedSVD)",
  cite,
  fields,
  samples: [
    {},
    { period: 3 },
    { orthonormalStart: false },
    { refreshEvery: 1, refreshKeep: 1 },
    { refreshEvery: 2, refreshKeep: 0, period: 3 },
  ],
  trains: ["B"],
  rules: anyRule,
  carries: ({ refreshEvery }) => refreshEvery > 0,
  check: (rank, { refreshEvery, refreshKeep }) =>
    refreshEvery > 0 && refreshKeep >= rank
      ? `refreshKeep is ${refreshKeep}, but it must be below the rank ${rank}`
      : undefined,
  start: (initial, { orthonormalStart }) => (orthonormalStart ? orthonormal(initial) : initial),
  finish: (base, changes, context, config) => {
    const trained = moved(base, changes, context, ["B"]);
    const refactors = due(context, config.period) || refreshes(context, config);
    return refactors ? refactoredNews(base, trained, refactor) : trained;
  },
  follow: (base, news, context, config) => {
    const turned = turnedNews(base, news);
    return refreshes(context, config) ? refreshed(turned, context, config.refreshKeep) : turned;
  },
});

/** Options of the ablation. */
type SqrtConfig = Pick<FedSvdConfig, "period">;

/**
 * The paper's ablation without orthonormal rows: the singular values are shared out, A = √S·Vᵀ and B = U·√S. A direction whose
 * singular value is 0 keeps a row of length 1: with a row of zeros it could never be trained again.
 */
export const fedsvdSqrt: Strategy<SqrtConfig> = defineStrategy({
  name: "fedsvd-sqrt",
  summary: "FedSVD with the singular values shared between A and B (the paper's ablation)",
  cite: { ...cite, at: "§4.4, the ablation without orthonormal rows" },
  fields: { period: fields.period },
  samples: [{}, { period: 2 }],
  trains: ["B"],
  rules: anyRule,
  carries: () => false,
  finish: (base, changes, context, { period }) => {
    const trained = moved(base, changes, context, ["B"]);
    return due(context, period) ? refactoredNews(base, trained, sharedOut) : trained;
  },
  follow: turnedNews,
});

function due({ round }: RoundContext, every: number): boolean {
  return (round + 1) % every === 0;
}

/** After the last round nothing is drawn: there is nobody to train it. */
function refreshes(context: RoundContext, { refreshEvery }: FedSvdConfig): boolean {
  return refreshEvery > 0 && due(context, refreshEvery) && context.round + 1 < context.rounds;
}

/** B' and M of every module, or A' in full where its rows depend on each other, and whole tensors. */
function refactoredNews<T extends Floats>(
  base: Tuned<T>,
  trained: Pieces<T>,
  by: (factors: Factors<T>) => Omit<Refactored<T>, "S">,
): Pieces<T> {
  const pieces = new Map<string, Piece<T>>(trained);
  for (const [module, { A }] of base.factors) {
    const name = pieceName("B", module);
    const B = matrixOf(trained.get(name) as Piece<T>); // every B is trained
    const found = by({ A, B });
    pieces.set(name, pieceOf(found.B));
    if (found.M) pieces.set(pieceName("M", module), pieceOf(matrixLike(A.data, found.M)));
    else pieces.set(pieceName("A", module), pieceOf(found.A));
  }
  return inOrder(pieces);
}

/** The factors that news of B, and of M or A, lead to. */
function turnedNews<T extends Floats>(base: Tuned<T>, news: Pieces<T>): Tuned<T> {
  const factors = new Map(
    [...base.factors].map(([module, before]) => {
      const piece = (part: "A" | "B" | "M"): Matrix<T> | undefined => {
        const found = news.get(pieceName(part, module));
        return found && matrixOf(found);
      };
      const M = piece("M");
      return [module, { A: M ? turnedBy(M, before.A) : (piece("A") ?? before.A), B: piece("B") ?? before.B }];
    }),
  );
  const whole = new Map([...base.whole].map(([name, before]) => [name, news.get(pieceName("W", name)) ?? before]));
  return { ...base, factors, whole };
}

function refreshed<T extends Floats>(tuned: Tuned<T>, { round, seed }: RoundContext, keep: number): Tuned<T> {
  const residual = new Map(tuned.residual);
  const factors = new Map(
    [...tuned.factors].map(([module, given]) => {
      const { A, B, folded } = refresh(given, keep, createRng(seed, "refresh", round, module));
      residual.set(module, withProduct(residual.get(module), folded));
      return [module, { A, B }];
    }),
  );
  return { ...tuned, factors, residual };
}

function sharedOut<T extends Floats>(factors: Factors<T>): Omit<Refactored<T>, "S"> {
  const { A, B, S, M } = refactor(factors);
  const root = [...S].map((value) => (value > 0 ? Math.sqrt(value) : 1));
  const rows = <F extends Floats>({ rows: count, cols, data }: Matrix<F>): Matrix<F> => ({
    rows: count,
    cols,
    data: data.map((value, i) => value * (root[Math.floor(i / cols)] ?? 1)) as F, // its own type
  });
  const data = B.data.map((value, i) => value / (root[i % B.cols] ?? 1)) as T;
  return { A: rows(A), B: { ...B, data }, M: M && rows(M) };
}
