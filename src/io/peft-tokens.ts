import type { LazyTensor } from "../graph/index.ts";
import { bytesOf } from "../graph/index.ts";
import { isJsonObject, type JsonObject } from "./json.ts";
import { type Problem, throwProblems } from "./problems.ts";

/** Rows of embeddings and output layers that PEFT trained: the tokens, and the rows [tokens, hidden], by module. */
export interface PeftTokens<T> {
  readonly indices: Readonly<Record<string, readonly number[]>>;
  readonly rows: ReadonlyMap<string, T>;
}

/** What a module's trained rows are called: the rows themselves, whatever "delta" says. */
export const tokenRowsSuffix = "token_adapter.trainable_tokens_delta";

/** The module whose rows a tensor holds. */
export function tokenRowsModule(name: string): string | undefined {
  return name.endsWith(`.${tokenRowsSuffix}`) ? name.slice(0, -tokenRowsSuffix.length - 1) : undefined;
}

/** `trainable_token_indices` as PEFT reads it. */
export function tokensConfig({ indices }: Pick<PeftTokens<unknown>, "indices">): JsonObject {
  return { trainable_token_indices: Object.keys(indices).length > 0 ? indices : null };
}

/** Whose rows a list without names means: those of the input embeddings. */
const inputEmbeddings = /(^|\.)(embed_tokens|wte|embed_in|word_embeddings|shared)$/;

/**
 * Bring `trainable_token_indices` (a list, or lists by the ends of module names) and the rows in the file together. Where
 * an output layer is tied to the embeddings, PEFT may write the rows once more under its name; such a copy has to be one.
 * @throws {TuneError} `peft-bad-config`; `peft-bad-tensors` for tokens without rows, and rows without tokens.
 */
export async function settleTokens(
  config: JsonObject,
  rows: ReadonlyMap<string, LazyTensor>,
  { configAt, weightsAt }: { readonly configAt: string; readonly weightsAt: string },
): Promise<PeftTokens<LazyTensor> | undefined> {
  const { trainable_token_indices: asked } = config;
  const named = isTokens(asked) ? undefined : tokenLists(asked);
  if (asked !== undefined && asked !== null && !isTokens(asked) && named === undefined) {
    const what = "trainable_token_indices is neither a list of token ids nor such lists by module.";
    throwProblems([{ code: "peft-bad-config", what, fix: "set it to [ids], { module: [ids] } or null" }], configAt);
  }
  const problems: Problem[] = [];
  const bad = (what: string): void => {
    problems.push({ code: "peft-bad-tensors", what, fix: "save the adapter again with PEFT's save_pretrained" });
  };
  const indices: Record<string, readonly number[]> = {};
  const copies: string[] = [];
  for (const module of rows.keys()) {
    const own = isTokens(asked)
      ? inputEmbeddings.test(module) || rows.size === 1
        ? asked
        : undefined
      : Object.entries(named ?? {}).find(([end]) => `.${module}`.endsWith(`.${end}`))?.[1];
    if (own) indices[module] = own;
    else copies.push(module);
  }
  const settled = Object.keys(indices);
  const lacking = isTokens(asked) && settled.length === 0 ? ["the embeddings"] : Object.keys(named ?? {});
  for (const end of lacking) {
    if (!settled.some((module) => `.${module}`.endsWith(`.${end}`)))
      bad(`trainable_token_indices names tokens of ${end}, but there are no rows of them.`);
  }
  for (const copy of copies) {
    const bytes = await bytesIn(rows.get(copy));
    const same = await Promise.all(settled.map(async (module) => equal(await bytesIn(rows.get(module)), bytes)));
    if (!same.includes(true))
      bad(`There are trained rows of ${copy}, of tokens that trainable_token_indices does not name.`);
  }
  throwProblems(problems, weightsAt);
  if (settled.length === 0) return undefined;
  return { indices, rows: new Map([...rows].filter(([module]) => settled.includes(module))) };
}

function isTokens(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.length > 0 && value.every((id) => Number.isSafeInteger(id) && id >= 0);
}

function tokenLists(value: unknown): Readonly<Record<string, readonly number[]>> | undefined {
  if (!isJsonObject(value)) return undefined;
  const entries = Object.entries(value).map(([module, ids]) => (isTokens(ids) ? ([module, ids] as const) : undefined));
  return entries.every((entry) => entry !== undefined) ? Object.fromEntries(entries) : undefined;
}

async function bytesIn(tensor: LazyTensor | undefined): Promise<Uint8Array> {
  return tensor ? bytesOf((await tensor.read()).data) : new Uint8Array();
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
