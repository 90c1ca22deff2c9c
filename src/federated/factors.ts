import { assert } from "../errors.ts";
import type { Floats, Matrix } from "../linalg/index.ts";

/** The factors of one adapted matrix W [out, in]: its update is scale·B·A. The scale is the method's and never in here. */
export interface Factors<T extends Floats = Float32Array> {
  /** [out, rank] */
  readonly B: Matrix<T>;
  /** [rank, in] */
  readonly A: Matrix<T>;
}

/** A tensor as it travels. */
export interface Piece<T extends Floats = Float32Array> {
  readonly shape: readonly number[];
  readonly data: T;
}

/** Tensors by name, in the order of their names. */
export type Pieces<T extends Floats = Float32Array> = ReadonlyMap<string, Piece<T>>;

/** All that a federation tunes, as it stands between two rounds: W = W0 + scale·(residual + B·A). */
export interface Tuned<T extends Floats = Float32Array> {
  /** By module. */
  readonly factors: ReadonlyMap<string, Factors<T>>;
  /** Tensors that are trained where they stand, such as a head's, by name. */
  readonly whole: Pieces<T>;
  /** What left the factors for the weights, dense, by module; empty where a method does no such thing. */
  readonly residual: ReadonlyMap<string, Matrix<T>>;
}

/** The parts of what is tuned: the first letter of a piece's name. */
type Part = "A" | "B" | "R" | "W";

/** The name under which a part of a module, or a whole tensor, travels. */
export function pieceName(part: Part | "M" | "L" | "U", of: string): string {
  return `${part}/${of}`;
}

/** A matrix as a piece. */
export function pieceOf<T extends Floats>({ rows, cols, data }: Matrix<T>): Piece<T> {
  return { shape: [rows, cols], data };
}

/** A piece as a matrix. */
export function matrixOf<T extends Floats>({ shape, data }: Piece<T>): Matrix<T> {
  const [rows = 0, cols = 0] = shape;
  assert(shape.length === 2, "a factor has two sides");
  return { rows, cols, data };
}

/** Pieces in the order in which they travel: by name, in UTF-16 units, the same everywhere. */
export function inOrder<T extends Floats>(pieces: Iterable<readonly [string, Piece<T>]>): Pieces<T> {
  return new Map([...pieces].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
}

/** All of what is tuned as pieces. */
export function piecesOf<T extends Floats>({ factors, whole, residual }: Tuned<T>): Pieces<T> {
  return inOrder([
    ...[...factors].flatMap(([module, { A, B }]): [string, Piece<T>][] => [
      [pieceName("A", module), pieceOf(A)],
      [pieceName("B", module), pieceOf(B)],
    ]),
    ...[...whole].map(([name, piece]): [string, Piece<T>] => [pieceName("W", name), piece]),
    ...[...residual].map(([module, matrix]): [string, Piece<T>] => [pieceName("R", module), pieceOf(matrix)]),
  ]);
}

/** What is tuned, from all of its pieces. */
export function tunedOf<T extends Floats>(pieces: Pieces<T>): Tuned<T> {
  const part = (letter: Part): [string, Piece<T>][] =>
    [...pieces].flatMap(([name, piece]): [string, Piece<T>][] =>
      name.startsWith(`${letter}/`) ? [[name.slice(2), piece]] : [],
    );
  return {
    factors: new Map(
      part("A").map(([module, A]) => [module, { A: matrixOf(A), B: matrixOf(need(pieces, pieceName("B", module))) }]),
    ),
    whole: new Map(part("W")),
    residual: new Map(part("R").map(([module, piece]) => [module, matrixOf(piece)])),
  };
}

/** A piece that must be there. */
export function need<T extends Floats>(pieces: Pieces<T>, name: string): Piece<T> {
  const found = pieces.get(name);
  assert(found !== undefined, () => `${name} is missing`);
  return found;
}

/** What clients upload of: whole tensors, and the factors that they train. */
export function trainedPieces<T extends Floats>(tuned: Tuned<T>, trains: readonly ("A" | "B")[]): Pieces<T> {
  const letters: readonly string[] = [...trains, "W"];
  return new Map([...piecesOf(tuned)].filter(([name]) => letters.includes(name[0] ?? "")));
}

/** Sums of two lists of pieces of the same names and shapes, computed in float64. */
export function added<T extends Floats>(base: Pieces<T>, delta: Pieces<T>, factor = 1): Pieces<T> {
  return new Map(
    [...base].map(([name, { shape, data }]) => {
      const other = need(delta, name).data;
      return [name, { shape, data: data.map((value, i) => value + factor * (other[i] ?? 0)) as T }]; // its own type
    }),
  );
}

/** Pieces of the same names with some replaced. */
export function withPieces<T extends Floats>(tuned: Tuned<T>, replaced: Pieces<T>): Tuned<T> {
  return tunedOf(new Map([...piecesOf(tuned), ...replaced]));
}

/** How many numbers some pieces have. */
export function countOf(pieces: Pieces<Floats>): number {
  return [...pieces.values()].reduce((sum, { data }) => sum + data.length, 0);
}
