import { TuneError } from "../errors.ts";
import { isJsonObject, type JsonObject, parseJson, readJsonObject } from "../io/json.ts";
import { insideFolder, joinPath, type Storage } from "../io/storage.ts";
import { readText } from "../io/text.ts";
import { type DenseModule, readDense } from "./sentence-dense.ts";
import { type Pooling, poolingsOf } from "./sentence-pooling.ts";
import { unsupportedModule } from "./sentence-refusal.ts";

/** What follows the pooling: a Dense module, or lengths made 1. */
export type SentenceLayer = DenseModule | { readonly kind: "normalize" };

/** What sentence-transformers' files say of a model: modules.json and what it names. */
export interface SentenceModules {
  /** Ways of pooling, laid end to end in this order. */
  readonly poolings: readonly Pooling[];
  /** What follows, in order; embeddings are made 1 long at the end in any case, as they are compared by directions. */
  readonly layers: readonly SentenceLayer[];
  /** Longest text in tokens; the model's context unless given. */
  readonly maxLength?: number;
  /** Whether texts are put into small letters before the tokenizer reads them. */
  readonly lowerCase?: true;
  /** What stands in front of every text. */
  readonly prompt?: string;
}

/**
 * Read what sentence-transformers says of a model in its folder; undefined when it says nothing.
 * @throws {TuneError} `unsupported-module` naming modules and ways of pooling that are not built; `weights-mismatch` for a
 *   Dense module that does not fit `hiddenSize` or what stands before it, and what {@link readDense} throws.
 */
export async function readSentenceModules(
  storage: Storage,
  folder: string,
  hiddenSize: number,
): Promise<SentenceModules | undefined> {
  const present = await storage.list(folder);
  if (!present.includes("modules.json")) return undefined;
  const at = joinPath(folder, "modules.json");
  let pooled: readonly Pooling[] | undefined;
  const layers: SentenceLayer[] = [];
  for (const { kind, path } of await listModules(storage, folder)) {
    const own = (): string => insideFolder(folder, path);
    if (kind === "Transformer" && pooled === undefined) continue;
    if (kind === "Pooling" && pooled === undefined) {
      const said = joinPath(own(), "config.json");
      pooled = poolingsOf(await readJsonObject(storage, said), said);
    } else if (kind === "Normalize" && pooled !== undefined) layers.push({ kind: "normalize" });
    else if (kind === "Dense" && pooled !== undefined) layers.push(await readDense(storage, own()));
    else {
      const known = ["Transformer", "Pooling", "Normalize", "Dense"].includes(kind);
      throw unsupportedModule(at, `the module ${kind}${known ? " where it stands" : ""}`);
    }
  }
  if (pooled === undefined) throw unsupportedModule(at, "a model without a Pooling module");
  checkWidths(layers, pooled.length * hiddenSize, at);
  return { poolings: pooled, layers, ...(await readTransformer(storage, folder)) };
}

/** What the files of the Transformer module, and of all modules, say about texts. */
async function readTransformer(
  storage: Storage,
  folder: string,
): Promise<Pick<SentenceModules, "maxLength" | "lowerCase" | "prompt">> {
  const present = await storage.list(folder);
  const read = async (name: string): Promise<JsonObject> =>
    present.includes(name) ? readJsonObject(storage, joinPath(folder, name)) : {};
  const { max_seq_length: longest, do_lower_case: lower } = await read("sentence_bert_config.json");
  const whole = "config_sentence_transformers.json";
  const { prompts = {}, default_prompt_name: chosen } = await read(whole);
  const prompt = typeof chosen === "string" && isJsonObject(prompts) ? prompts[chosen] : undefined;
  if (chosen !== undefined && chosen !== null && typeof prompt !== "string") {
    throw new TuneError(
      "bad-config",
      `"default_prompt_name" is ${JSON.stringify(chosen)}, which "prompts" does not hold.`,
      {
        at: joinPath(folder, whole),
        fix: "name one of its prompts, or null",
      },
    );
  }
  return {
    ...(typeof longest === "number" && Number.isSafeInteger(longest) && longest > 0 ? { maxLength: longest } : {}),
    ...(lower === true ? { lowerCase: true } : {}),
    ...(typeof prompt === "string" && prompt !== "" ? { prompt } : {}),
  };
}

/** A text as sentence-transformers hands it to the tokenizer. */
export function sentenceText(text: string, { prompt = "", lowerCase }: SentenceModules): string {
  const whole = (prompt + text).trim();
  return lowerCase ? whole.toLowerCase() : whole;
}

/** Numbers of what goes into Dense modules are those of what comes out before them. */
function checkWidths(layers: readonly SentenceLayer[], pooledWidth: number, at: string): void {
  let width = pooledWidth;
  for (const layer of layers) {
    if (layer.kind !== "dense") continue;
    const [out = 0, into = 0] = layer.weight.shape;
    if (into !== width) {
      throw new TuneError("weights-mismatch", `A Dense module reads ${into} numbers, but ${width} stand before it.`, {
        at,
        fix: "fetch the model's folder again",
      });
    }
    width = out;
  }
}

/** The modules of a folder: their kinds and their folders in it. */
async function listModules(
  storage: Storage,
  folder: string,
): Promise<readonly { readonly kind: string; readonly path: string }[]> {
  const at = joinPath(folder, "modules.json");
  return parseList(await readText(storage, at), at).map(({ type, path }) => ({
    kind: typeof type === "string" ? (type.split(".").at(-1) ?? "") : JSON.stringify(type ?? null),
    path: typeof path === "string" ? path : "",
  }));
}

/** Files of sentence-transformers in a model's folder, from it. */
export async function sentenceFiles(storage: Storage, folder: string): Promise<readonly string[]> {
  const present = await storage.list(folder);
  if (!present.includes("modules.json")) return [];
  const named = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
  const inner = (await listModules(storage, folder)).flatMap(({ kind, path }) =>
    path === "" ? [] : [`${path}/config.json`, ...(kind === "Dense" ? [`${path}/model.safetensors`] : [])],
  );
  const there = await Promise.all(
    inner.map(async (file) => (await storage.sizeBytes(insideFolder(folder, file))) !== undefined),
  );
  return [...named.filter((file) => present.includes(file)), ...inner.filter((_, i) => there[i])];
}

function parseList(text: string, at: string): readonly JsonObject[] {
  let list: unknown;
  try {
    list = parseJson(text);
  } catch (cause) {
    throw new TuneError(
      "malformed-json",
      `The file is not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}.`,
      { at, fix: "fetch it again", cause },
    );
  }
  if (Array.isArray(list) && list.every(isJsonObject)) return list;
  throw new TuneError("malformed-json", "The file does not hold a list of modules.", { at, fix: "fetch it again" });
}
