import { type Floats, type Matrix, matmul, matrixLike, toFloat64 } from "../../linalg/index.ts";
import type { Factors } from "../factors.ts";

/** What has left the factors of a module so far, with a product added: [out, in]. */
export function withProduct<T extends Floats>(before: Matrix<T> | undefined, { B, A }: Factors<T>): Matrix<T> {
  const product = matmul(toFloat64(B), A);
  if (before)
    for (let i = 0; i < product.data.length; i++) product.data[i] = (product.data[i] ?? 0) + (before.data[i] ?? 0);
  return matrixLike(B.data, product);
}
