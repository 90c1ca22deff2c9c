import { listing, TuneError } from "../errors.ts";
import type { LazyTensor } from "../graph/index.ts";
import { sameValues, toFloat32 } from "../io/convert.ts";
import type { Harmless } from "./harmless.ts";
import { grouped } from "./match.ts";

/** A tensor that the files hold and the model does not use. */
export interface UnusedTensor {
  readonly name: string;
  /** Why nothing is lost without it. */
  readonly why: string;
}

/**
 * Why each tensor that a model leaves out is harmless.
 * @throws {TuneError} `unused-tensors` listing all that are not known to be, or are not what they would have to be.
 */
export async function explainUnused(
  names: readonly string[],
  files: ReadonlyMap<string, LazyTensor>,
  used: ReadonlyMap<string, { readonly source: LazyTensor }>,
  harmless: readonly Harmless[],
  { at, modelType }: Readonly<Record<"at" | "modelType", string>>,
): Promise<readonly UnusedTensor[]> {
  const explained: UnusedTensor[] = [];
  const unknown: { name: string; what: string }[] = [];
  for (const name of names) {
    const tensor = files.get(name);
    if (tensor === undefined) continue;
    let why: string | undefined;
    for (const record of harmless.filter((candidate) => candidate.names.test(name))) {
      if (await holds(record, tensor, used)) {
        why = record.why;
        break;
      }
    }
    if (why === undefined) unknown.push({ name, what: ` is ${tensor.dtype} [${tensor.shape.join(", ")}]` });
    else explained.push({ name, why });
  }
  if (unknown.length === 0) return explained;
  const count = unknown.length === 1 ? "a tensor" : `${unknown.length} tensors`;
  const what = `The files hold ${count} that the ${modelType} model of config.json does not use`;
  throw new TuneError("unused-tensors", listing(`${what}:`, grouped(unknown)), {
    at,
    fix: "use the config.json that belongs to these files; or, if they are parts that you do not need, save the model without them",
  });
}

async function holds(
  { when }: Harmless,
  tensor: LazyTensor,
  used: ReadonlyMap<string, { readonly source: LazyTensor }>,
): Promise<boolean> {
  if (when === undefined) return true;
  if (when === "zeros") return (await toFloat32(tensor)).data.every((value) => value === 0);
  const other = used.get(when.sameAs)?.source;
  return other !== undefined && sameValues(tensor, other);
}
