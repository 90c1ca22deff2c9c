import type { LazyTensor } from "../../graph/index.ts";

/** What `config.json`, or a file beside it, says of how weights were quantised; spellings are those of the tools. */
export type QuantisationSettings = Readonly<Record<string, unknown>>;

/** The tensors of one module, by what follows the module's name: `qweight`, `weight.absmax`. */
export type Parts = ReadonlyMap<string, LazyTensor>;

/** A matrix kept as codes, and how it is read. */
export interface CodedMatrix {
  /** [out, in], as linear layers have it. */
  readonly shape: readonly [rows: number, columns: number];
  /** How it is coded, for people: `4 bits in groups of 128`. */
  readonly scheme: string;
  /** The weights [out, in] that the codes stand for, row by row. Nothing is kept between two calls. */
  readonly read: () => Promise<Float32Array>;
}

/** A format in which tools keep quantised matrices, one a module. Adding one is adding a file, and a line in `table.ts`. */
export interface QuantisedFormat {
  /** What people call it. */
  readonly name: string;
  /** Its names in `quant_method` of `quantization_config`. */
  readonly methods: readonly string[];
  /** Where the layout is documented. */
  readonly cite: string;
  /** Whether the tensors of a module are of this format, whatever `config.json` says. */
  readonly matches: (parts: Parts) => boolean;
  /** Parts of a module that belong to the format, whether or not the weights depend on them. */
  readonly parts: readonly string[];
  /** Check the parts of a module against each other, reading a few bytes at most; or say what is wrong with them. */
  readonly open: (parts: Parts, settings: QuantisationSettings) => Promise<CodedMatrix | string>;
  /** How to get plain weights with the tool that made the codes. */
  readonly mend: string;
  /** Goldens that hold it: their names in `tests/golden/quantised.safetensors`. */
  readonly samples: readonly string[];
}

/** A format whose weights Scion does not read: known by name, so that it is refused by name. */
export interface RefusedFormat {
  readonly name: string;
  readonly methods: readonly string[];
  readonly matches: (parts: Parts) => boolean;
  /** How to get plain weights. */
  readonly mend: string;
}

/** Fits every tool that loads into transformers. */
export const saveDequantised =
  "load it with transformers, call model.dequantize() and model.save_pretrained(folder), and use that folder";

/** `[4, 32]`. */
export function shown(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** The shape of a part that must be a matrix; undefined where it is not one. */
export function matrixOf(parts: Parts, name: string): readonly [number, number] | undefined {
  const [rows, columns, ...more] = parts.get(name)?.shape ?? [];
  return rows === undefined || columns === undefined || more.length > 0 ? undefined : [rows, columns];
}
