import { assert } from "../errors.ts";
import type { Fields } from "../fields.ts";
import type { PackedMatrix } from "../io/packed/index.ts";
import type { Citation } from "../methods/index.ts";
import type { Algebra } from "./algebra.ts";
import type { Hessian, PreparedHessian } from "./hessian.ts";

/** A linear map's weight, to be quantised. */
export interface QuantSite {
  /** The weight's name; errors speak in it. */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns]: outputs by inputs. Left as it is. */
  readonly weight: Float32Array | Float64Array;
  /** What its inputs were on the calibration text; absent without one, where the scheme does not need it. */
  readonly hessian?: Hessian | undefined;
}

/** A quantised weight, and what was done for it. */
export interface Quantised {
  readonly matrix: PackedMatrix;
  /** How the Hessian had to be mended, where the scheme read it. */
  readonly prepared?: Pick<PreparedHessian, "damping" | "diagonalOnly" | "dead">;
}

/** A scheme of quantisation. Adding one is adding such a record and one line in `quant/table.ts`. */
export interface Scheme<Config extends object = object> {
  readonly name: string;
  readonly summary: string;
  readonly cite?: Citation;
  readonly fields: Fields<Config>;
  /** Whether the inputs of a layer change what is done, beyond setting the weights of dead inputs to 0. */
  readonly readsActivations: boolean;
  /** Whether it cannot do without calibration text at these options: what it makes of a weight depends on the inputs. */
  readonly needsCalibration: (config: Config) => boolean;
  /** Quantise one weight, by itself; `bits` is a whole number from 1 to 8. */
  readonly quantise: (site: QuantSite, bits: number, config: Config, algebra?: Algebra) => Promise<Quantised>;
}

/** Declare a scheme; its own config type stays inside it. */
export function defineScheme<Config extends object>(scheme: Scheme<Config>): Scheme<Config> {
  return Object.freeze(scheme);
}

/** What the inputs of a site were, where the scheme has said that it needs to know. */
export function hessianOf({ name, hessian }: QuantSite): Hessian {
  assert(hessian !== undefined, () => `${name} is quantised with its inputs measured`);
  return hessian;
}
