/**
 * Small dense algebra on typed arrays, in float64 and float32, and random numbers that are the same everywhere. What is
 * large is handed in as a product (`Multiply`): this room knows no device.
 */
export { addProduct } from "./add-product.ts";
export { invertUpper, isPositiveDefinite, isPositiveDefiniteByPanels, upperFactor } from "./cholesky.ts";
export { leadingOfUpdatedDiagonal, type UpdatedDiagonal } from "./diagonal-plus.ts";
export { type Eigh, eigh } from "./eigh.ts";
export { createFft, type Fft } from "./fft.ts";
export { type FilterOptions, filteredSubspace, type Subspace, type SymmetricOperator } from "./filtered.ts";
export { invertedUpperFactor } from "./inverse-factor.ts";
export { type JacobiSvd, jacobiSvd } from "./jacobi.ts";
export { type LeadingOptions, leadingTriplets } from "./krylov.ts";
export { boundWeights, type WeightOptions, type Weights } from "./lanczos.ts";
export { leadingBySquare } from "./leading.ts";
export {
  besides,
  columnsOf,
  emptyLike,
  type Floats,
  frobeniusNorm,
  identityMatrix,
  inTypeOf,
  type Matrix,
  matrix,
  matrixLike,
  rowsOf,
  scaledToUnit,
  toFloat64,
  transposed,
  zeroMatrix,
} from "./matrix.ts";
export { type Multiply, type MultiplyOptions, matmul } from "./multiply.ts";
export { diagonalPlus, type LinearOperator, lowRankPlus, operatorOf } from "./operator.ts";
export { type Qr, qr } from "./qr.ts";
export { gram, type LeadingTriplets } from "./ritz.ts";
export { createRng, naturalLog, type Rng, splitMix64, xoshiro128 } from "./rng.ts";
export { createRooms, type Rooms } from "./rooms.ts";
export { type Svd, svd } from "./svd.ts";
