import { listing, nearest, TuneError } from "../errors.ts";
import { isFloat, type LazyTensor } from "../graph/index.ts";
import type { Family, Form, TensorSpec } from "./architecture.ts";

/** A tensor of a model, and what the files call it. */
export interface MatchedTensor {
  readonly name: string;
  readonly key: string;
  readonly tensor: LazyTensor;
}

/** How many lines of an error say what does not fit. */
const most = 30;

/**
 * Find every tensor of a model in its files, by its own name or by one that older checkpoints have for it.
 * @throws {TuneError} `weights-mismatch` listing all that are missing, of another shape, or no weights.
 */
export function matchTensors(
  specs: readonly TensorSpec[],
  architecture: Pick<Family & Form, "basePrefix" | "storedName">,
  files: ReadonlyMap<string, LazyTensor>,
  folder: string,
): readonly MatchedTensor[] {
  const problems: { name: string; what: string }[] = [];
  const found: MatchedTensor[] = [];
  for (const { name, shape } of specs) {
    const key = storedKey(name, architecture, files);
    const tensor = key === undefined ? undefined : files.get(key);
    const wanted = `[${shape.join(", ")}]`;
    if (key === undefined || tensor === undefined) {
      // The nearest name is worth its time for the first few.
      const [near] = problems.length < most ? nearest(name, files.keys(), 1) : [];
      problems.push({ name, what: ` ${wanted} is missing${near ? ` (the files hold ${near})` : ""}` });
    } else if (tensor.shape.join() !== shape.join()) {
      problems.push({ name, what: ` is [${tensor.shape.join(", ")}], but config.json asks for ${wanted}` });
    } else if (!isFloat(tensor.dtype)) {
      const what = ` holds ${tensor.dtype}: codes of a quantised matrix, whose scales are not beside it`;
      problems.push({ name: key, what });
    } else {
      found.push({ name, key, tensor });
    }
  }
  if (problems.length === 0) return found;
  throw new TuneError("weights-mismatch", listing("The weights do not fit config.json:", grouped(problems)), {
    at: folder,
    fix: "use the config.json and the safetensors of one and the same model",
  });
}

/** The name that a checkpoint has for a tensor; undefined where it holds none. */
export function storedKey(
  name: string,
  { basePrefix, storedName = (own) => own }: Pick<Family & Form, "basePrefix" | "storedName">,
  files: ReadonlyMap<string, LazyTensor>,
): string | undefined {
  const short = name.startsWith(basePrefix) ? name.slice(basePrefix.length) : name;
  const spellings = [name, short, basePrefix + name];
  return [...spellings, ...spellings.map(storedName), ...spellings.map(ofTensorFlow)].find((spelt) => files.has(spelt));
}

/** BERT's first checkpoints name the parts of a norm as TensorFlow did. */
function ofTensorFlow(name: string): string {
  return name.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta");
}

/**
 * What is to be said of tensors, those that differ by a layer's number alone in one line: `layers.*.q_proj.weight is missing
 * (4 of them)`. The largest groups first, 30 lines at most.
 */
export function grouped(entries: readonly { readonly name: string; readonly what: string }[]): readonly string[] {
  const groups = new Map<string, { line: string; count: number }>();
  for (const { name, what } of entries) {
    const pattern = (text: string): string => text.replace(/(^|\.)\d+(?=\.)/g, "$1*");
    const key = pattern(name) + pattern(what);
    const group = groups.get(key);
    if (group) group.count++;
    else groups.set(key, { line: name + what, count: 1 });
  }
  const lines = [...groups]
    .sort(([, a], [, b]) => b.count - a.count)
    .map(([key, { line, count }]) => (count === 1 ? line : `${key} (${count} of them)`));
  const left = lines.length - most;
  return left > 0 ? [...lines.slice(0, most), `and ${left} more`] : lines;
}
