import type { Floats } from "../../linalg/index.ts";
import type { Tuned } from "../factors.ts";
import { refactor } from "../refactor.ts";

/** The same weights, with the rows of every A orthonormal. */
export function orthonormal<T extends Floats>(tuned: Tuned<T>): Tuned<T> {
  const factors = new Map(
    [...tuned.factors].map(([module, given]) => {
      const { A, B } = refactor(given);
      return [module, { A, B }];
    }),
  );
  return { ...tuned, factors };
}
