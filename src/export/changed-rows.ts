import type { LazyTensor, Tensor } from "../graph/index.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import type { PeftWholeWeights } from "../io/peft.ts";
import { tokenRowsSuffix } from "../io/peft-tokens.ts";
import { rowsOf, type TokenRows } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";

/** Whole weights without the embeddings that PEFT saved unasked, and the rows by which those differ from the model's. */
export interface ChangedRows {
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  /** Rows [tokens, hidden] in float32 by module, and the tokens. */
  readonly rows: ReadonlyMap<string, Tensor>;
  readonly indices: TokenRows;
}

/**
 * PEFT saves embeddings and output layers whole once the vocabulary has grown, whatever was trained of them. What counts
 * are the rows that the model does not have: those named as trained, and those that are others than the model's. Where most
 * are others, the module was trained whole.
 */
export async function changedRows(
  model: PretrainedModel,
  { modules, tensors, tokens }: PeftWholeWeights<LazyTensor>,
): Promise<ChangedRows> {
  const indices: Record<string, readonly number[]> = { ...tokens?.indices };
  const rows = new Map<string, Tensor<"float32">>();
  for (const [module, lazy] of tokens?.rows ?? []) {
    const values = await toFloat32(lazy);
    assertFinite(`${module}.${tokenRowsSuffix}`, values);
    rows.set(module, values);
  }
  const left = new Map(tensors);
  for (const [name, lazy] of tensors) {
    const module = name.replace(/\.weight$/, "");
    const own = model.weights.get(name)?.source;
    const asked = modules.some((saved) => module.endsWith(saved));
    if (asked || own?.shape.length !== 2 || own.shape.join() !== lazy.shape.join()) continue;
    const [saved, pretrained] = [await toFloat32(lazy), await own.read()];
    const trained = indices[module] ?? [];
    const changed = differing(saved, pretrained).filter((row) => !trained.includes(row));
    if (trained.length === 0 && changed.length > Number(saved.shape[0]) / 2) continue; // the module itself was trained
    left.delete(name);
    for (const [copy, twin] of tensors) {
      if (!model.weights.has(copy) && sameValues(await toFloat32(twin), saved)) left.delete(copy); // a tied output layer's
    }
    if (changed.length === 0) continue;
    assertFinite(name, saved);
    const [before, others] = [rows.get(module)?.data ?? new Float32Array(), rowsOf(saved, changed)];
    const all = new Float32Array(before.length + others.length);
    all.set(before);
    all.set(others, before.length);
    const width = Number(saved.shape[1]);
    indices[module] = [...trained, ...changed];
    rows.set(module, { dtype: "float32", shape: [all.length / width, width], data: all });
  }
  return { tensors: left, rows, indices };
}

/** The rows in which two tensors of one shape differ. */
function differing({ shape, data }: Tensor, other: Tensor): readonly number[] {
  const [rows = 0, width = 0] = shape;
  const found: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let i = row * width; i < (row + 1) * width; i++) {
      if (data[i] === other.data[i]) continue;
      found.push(row);
      break;
    }
  }
  return found;
}

function sameValues(a: Tensor, b: Tensor): boolean {
  return a.shape.join() === b.shape.join() && differing(a, b).length === 0;
}
