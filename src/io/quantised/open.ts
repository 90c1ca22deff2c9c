import { nearest, TuneError } from "../../errors.ts";
import type { LazyTensor, Tensor } from "../../graph/index.ts";
import { type Problem, throwProblems } from "../problems.ts";
import type { CodedMatrix, Parts, QuantisedFormat } from "./format.ts";
import { refusedFormats } from "./refused.ts";
import type { SaidQuantisation } from "./settings.ts";
import { quantisedFormats } from "./table.ts";

/** How the matrices of a checkpoint were quantised. */
export interface Quantisation {
  /** The format's name: `GPTQ`. */
  readonly format: string;
  /** How matrices are coded, each way once. */
  readonly schemes: readonly string[];
  /** How many matrices are coded so; none where `config.json` says so and the tensors are plain weights all the same. */
  readonly matrices: number;
}

/** The tensors of a checkpoint as plain weights. */
export interface PlainWeights {
  /** Coded matrices are `<module>.weight`, float32, dequantised when they are read; all others are as they were. */
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  /** What was found; empty for a checkpoint of plain weights. */
  readonly quantised: readonly Quantisation[];
}

/**
 * Recognise the matrices of a checkpoint that are kept as codes, by their tensors, and put plain weights in their place.
 * Nothing is read but a few bytes a matrix; each is dequantised when it is read, one at a time. `inOut` matches modules whose
 * weights the model has the other way round, [in, out].
 * @throws {TuneError} `quantisation-unsupported` for formats that are known and not read, or named and not known, saying how to
 * get plain weights; `bad-quantised-weights` where the tensors of a module do not fit each other, with every such module.
 */
export async function openQuantised(
  files: ReadonlyMap<string, LazyTensor>,
  said: SaidQuantisation | undefined,
  folder: string,
  { inOut }: { readonly inOut?: RegExp } = {},
): Promise<PlainWeights> {
  refuseSaid(said, folder);
  const tensors = new Map(files);
  const problems: Problem[] = [];
  const found = new Map<QuantisedFormat, { matrices: number; schemes: Set<string> }>();
  for (const [module, parts] of modulesOf(files)) {
    const refused = refusedFormats.find(({ matches }) => matches(parts));
    if (refused)
      throw unsupported(refused.name, `${module} holds ${[...parts.keys()].join(", ")}`, folder, refused.mend);
    const format = quantisedFormats.find(({ matches }) => matches(parts));
    if (!format) continue;
    const opened = await format.open(parts, { ...said?.settings, ...said?.modules[module] });
    if (typeof opened === "string") {
      problems.push({
        code: "bad-quantised-weights",
        what: `${module} (${format.name}): ${opened}`,
        fix: `fetch the files again, or use plain weights: ${format.mend}`,
      });
      continue;
    }
    for (const part of format.parts) tensors.delete(`${module}.${part}`);
    tensors.set(`${module}.weight`, plain(opened, inOut?.test(module) === true));
    const entry = found.get(format) ?? { matrices: 0, schemes: new Set() };
    entry.matrices++;
    entry.schemes.add(opened.scheme);
    found.set(format, entry);
  }
  throwProblems(problems, folder);
  const quantised = [...found].map(([{ name }, { matrices, schemes }]) => ({
    ...{ format: name, matrices },
    schemes: [...schemes],
  }));
  const method = said?.method?.toLowerCase();
  if (method === undefined || quantised.length > 0) return { tensors, quantised };
  return { tensors, quantised: [{ format: method, schemes: [], matrices: 0 }] };
}

/** How a checkpoint's matrices are quantised, in a line. */
export function describeQuantisation(quantised: readonly Quantisation[]): string {
  return quantised
    .map(({ format, schemes, matrices }) =>
      matrices === 0
        ? `${format} as config.json says, though all its weights are plain`
        : `${format} (${matrices} matrices: ${schemes.slice(0, 4).join("; ")})`,
    )
    .join(", ");
}

/** Tensors by module, and by what follows its name. bitsandbytes and others hang their own from `weight`. */
function modulesOf(files: ReadonlyMap<string, LazyTensor>): ReadonlyMap<string, Parts> {
  const modules = new Map<string, Map<string, LazyTensor>>();
  for (const [name, tensor] of files) {
    const inner = name.search(/\.(weight|bias)\.[^.]/);
    const at = inner >= 0 ? inner : name.lastIndexOf(".");
    if (at < 0) continue;
    const module = name.slice(0, at);
    const parts = modules.get(module) ?? new Map<string, LazyTensor>();
    parts.set(name.slice(at + 1), tensor);
    modules.set(module, parts);
  }
  return modules;
}

function refuseSaid(said: SaidQuantisation | undefined, folder: string): void {
  const method = said?.method?.toLowerCase();
  if (said === undefined || method === undefined) return;
  if (quantisedFormats.some(({ methods }) => methods.includes(method))) {
    const { transform_config: transform } = said.settings;
    if (typeof transform !== "object" || transform === null || Object.keys(transform).length === 0) return;
    throw unsupported(`${said.method} with rotations`, `${said.at} has a transform_config`, folder, refusedFix);
  }
  const refused = refusedFormats.find(({ methods }) => methods.includes(method));
  if (refused) throw unsupported(refused.name, `${said.at} says ${said.method}`, folder, refused.mend);
  const known = quantisedFormats.flatMap(({ methods }) => methods);
  const [near] = nearest(method, known, 1);
  throw unsupported(
    `"${said.method}"`,
    `${said.at} says so${near ? `; did you mean ${near}?` : ""}`,
    folder,
    refusedFix,
  );
}

const refusedFix = "use the model's own repository, from before it was quantised";

function unsupported(name: string, why: string, folder: string, mend: string): TuneError {
  const what = `The weights are quantised with ${name}, which Scion does not read: ${why}.`;
  return new TuneError("quantisation-unsupported", what, { at: folder, fix: mend });
}

function plain({ shape, read }: CodedMatrix, turned: boolean): LazyTensor {
  const [rows, columns] = shape;
  return {
    dtype: "float32",
    shape: turned ? [columns, rows] : shape,
    sizeBytes: 4 * rows * columns,
    read: async (): Promise<Tensor> => {
      const values = await read();
      if (!turned) return { dtype: "float32", shape, data: values };
      const data = new Float32Array(values.length);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < columns; i++) data[i * rows + row] = values[row * columns + i] ?? 0;
      }
      return { dtype: "float32", shape: [columns, rows], data };
    },
  };
}
