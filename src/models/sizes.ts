import { listing, TuneError } from "../errors.ts";
import type { LazyTensor } from "../graph/index.ts";
import type { ConfigJson } from "./config.ts";

/**
 * What bounds a size that `config.json` names: `layers`, how many numbered layers the files hold; `side`, the longest side of
 * any tensor; `table`, the same, where there may be no such table.
 */
export type SizeBound = "layers" | "side" | "table";

/** The keys of `config.json` that are sizes of tensors, and what bounds each. */
export type SizeKeys = Readonly<Record<string, SizeBound>>;

/**
 * Check sizes against the names and shapes in the files before anything is made of them, so that a size out of all proportion
 * costs no time and no memory. `rest` says what else does not fit, given a configuration with as many layers as there are.
 * @throws {TuneError} `weights-mismatch` listing every size that no tensor can have, and the rest.
 */
export function checkSizes(
  keys: SizeKeys,
  json: ConfigJson,
  files: ReadonlyMap<string, LazyTensor>,
  { at, rest }: { readonly at: string; readonly rest: (json: ConfigJson) => readonly string[] },
): void {
  const layers = layersIn(files);
  let longest = 0;
  for (const { shape } of files.values()) for (const side of shape) longest = Math.max(longest, side);
  const problems: string[] = [];
  let settled: ConfigJson | undefined = json;
  for (const [key, bound] of Object.entries(keys)) {
    const value = json[key];
    if (typeof value !== "number") continue; // absent, or of a kind that reading the configuration refuses
    if (bound === "layers") {
      if (value <= layers) continue;
      problems.push(`"${key}" is ${value}, but the files hold ${layers} layers`);
      settled = settled && { ...settled, [key]: layers };
    } else if (value > longest || (bound === "side" && value <= 0)) {
      problems.push(`"${key}" is ${value}, but the sides of tensors are 1 to ${longest} long`);
      settled = undefined;
    }
  }
  if (problems.length === 0) return;
  const lines = [...problems, ...(settled ? rest(settled) : [])];
  throw new TuneError("weights-mismatch", listing(`The weights do not fit config.json:`, lines), {
    at,
    fix: "use the config.json and the safetensors of one and the same model",
  });
}

/** One more than the largest number in the names of tensors: `model.layers.3.…`. */
function layersIn(files: ReadonlyMap<string, LazyTensor>): number {
  let most = 0;
  for (const name of files.keys()) {
    for (const [, number] of name.matchAll(/\.(\d+)(?=\.)/g)) most = Math.max(most, Number(number) + 1);
  }
  return most;
}
