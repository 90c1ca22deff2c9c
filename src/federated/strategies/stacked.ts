import { emptyLike, type Floats } from "../../linalg/index.ts";
import { type AggregationOptions, type Change, inOrderOfClients, weightsOf } from "../aggregate.ts";
import {
  added,
  type Factors,
  matrixOf,
  need,
  type Piece,
  type Pieces,
  pieceName,
  type Tuned,
  trainedPieces,
} from "../factors.ts";
import { withProduct } from "./residual.ts";

/** What one client has trained, and what it counts in a mean. */
export interface Trained<T extends Floats> {
  readonly share: number;
  readonly factors: ReadonlyMap<string, Factors<T>>;
}

/** The factors that clients came to, in the order of their names. */
export function trainedByClients<T extends Floats>(
  base: Tuned<T>,
  changes: readonly Change<T>[],
  aggregation: AggregationOptions,
): readonly Trained<T>[] {
  const sorted = inOrderOfClients(changes);
  const shares = weightsOf(sorted, aggregation);
  const before = trainedPieces(base, ["A", "B"]);
  return sorted.map(({ delta }, i) => {
    const after: Pieces<T> = added(before, delta);
    return { share: shares[i] ?? 0, factors: factorsIn(base, after) };
  });
}

/**
 * Of every module Σ share·B·A over clients as one product of wider factors, [B₁ B₂ …] (`L`) and [share₁·A₁; share₂·A₂; …] (`U`).
 * @param less factors that are taken from every client's first.
 */
export function stacks<T extends Floats>(
  clients: readonly Trained<T>[],
  less?: ReadonlyMap<string, Factors<T>>,
): Pieces<T> {
  const pieces = new Map<string, Piece<T>>();
  for (const [module, { A, B }] of clients[0]?.factors ?? []) {
    const width = clients.length * A.rows;
    const left = emptyLike(B.data, B.rows * width);
    const right = emptyLike(A.data, width * A.cols);
    const from = less?.get(module);
    for (const [k, { share, factors }] of clients.entries()) {
      const own = factors.get(module) ?? { A, B };
      for (let i = 0; i < B.data.length; i++) {
        const at = Math.floor(i / A.rows) * width + k * A.rows + (i % A.rows);
        left[at] = (own.B.data[i] ?? 0) - (from?.B.data[i] ?? 0);
      }
      for (let i = 0; i < A.data.length; i++) {
        right[k * A.data.length + i] = share * ((own.A.data[i] ?? 0) - (from?.A.data[i] ?? 0));
      }
    }
    pieces.set(pieceName("L", module), { shape: [B.rows, width], data: left });
    pieces.set(pieceName("U", module), { shape: [width, A.cols], data: right });
  }
  return pieces;
}

/** What has left the factors for the weights, with the products of stacks added. */
export function withStacks<T extends Floats>({ factors, residual }: Tuned<T>, news: Pieces<T>): Tuned<T>["residual"] {
  return new Map(
    [...factors.keys()].map((module) => {
      const product = {
        B: matrixOf(need(news, pieceName("L", module))),
        A: matrixOf(need(news, pieceName("U", module))),
      };
      return [module, withProduct(residual.get(module), product)];
    }),
  );
}

/** What stands where factors and whole tensors are told as they are. */
export function factorsIn<T extends Floats>({ factors }: Tuned<T>, pieces: Pieces<T>): ReadonlyMap<string, Factors<T>> {
  return new Map(
    [...factors.keys()].map((module) => [
      module,
      { A: matrixOf(need(pieces, pieceName("A", module))), B: matrixOf(need(pieces, pieceName("B", module))) },
    ]),
  );
}
