import { createRooms, type Multiply, type Rooms } from "../linalg/index.ts";
import { type Hessian, type PreparedHessian, type PrepareOptions, prepareHessian } from "./hessian.ts";

/** What schemes compute large things with, from one weight to the next. */
export interface Algebra {
  /** Computes large products, in the array type of its operands; absent where everything is computed here. */
  readonly multiply?: Multiply;
  /** Memory that each weight uses after the one before it. */
  readonly rooms: Rooms;
  /** {@link prepareHessian}, once for all weights that read the same input one after the other. */
  prepare(hessian: Hessian, options: PrepareOptions): Promise<PreparedHessian>;
}

/** Algebra that keeps the last Hessian that was prepared, and its memory for the next of its size. */
export function createAlgebra(multiply?: Multiply): Algebra {
  const rooms = createRooms();
  let last: { readonly hessian: Hessian; readonly key: string; readonly prepared: PreparedHessian } | undefined;
  return {
    ...(multiply ? { multiply } : {}),
    rooms,
    prepare: async (hessian, options) => {
      const key = `${options.damping} ${options.activationOrder} ${options.run ?? 1}`;
      if (last?.hessian === hessian && last.key === key) return last.prepared;
      last = undefined; // its memory is written over
      const prepared = await prepareHessian(hessian, options, { multiply, rooms });
      last = { hessian, key, prepared };
      return prepared;
    },
  };
}
