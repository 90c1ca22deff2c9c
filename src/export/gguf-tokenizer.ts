import { nearest, TuneError } from "../errors.ts";
import { bool, type GgufMetadata, text, uint32 } from "../io/gguf.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { createTokenizer, loadTokenizer, type TextTokenizer } from "../io/tokenizer.ts";

/** How llama.cpp cuts a text before it merges bytes, by `tokenizer.ggml.pre`: expressions applied one after the other. */
interface PreTokenizer {
  readonly patterns: readonly string[];
}

const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const llama3 = (digits: string): string =>
  String.raw`'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

/** Those of llama.cpp's that tokenizers of supported families have (src/llama-vocab.cpp). */
export const ggufPreTokenizers: Readonly<Record<string, PreTokenizer>> = {
  "gpt-2": { patterns: [gpt2] },
  "llama-bpe": { patterns: [llama3(String.raw`\p{N}{1,3}`)] },
  qwen2: { patterns: [llama3(String.raw`\p{N}`)] },
  smollm: { patterns: [String.raw`\p{N}`, gpt2] },
};

/** What tells one way of cutting from another: contractions, digits, white space, punctuation, scripts. */
const probes: readonly string[] = [
  "I'm sure they'll say it's what WE'VE said, or I'D; don't you?",
  "1 12 123 1234 12345 3.14 2024-01-31 x1y22z333 ½ ³ 一二三 ٣٤٥",
  "two  spaces,   three\ttab\n\nlines \n  indented\r\nend  ",
  "f(x) = {a: [1, 2]}; // done!!! <b>$5.00 & 7%</b> #tag @me",
  "Ünïcödé Ελληνικά русский 日本語 한국어 العربية हिन्दी 🙂👍🏽",
];

const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** A tokenizer in llama.cpp's words. */
export interface GgufTokenizer {
  readonly metadata: GgufMetadata;
  /** The token whose embedding each of its tokens has. */
  readonly rows: readonly number[];
  /** Whether its special tokens take the white space behind them away, as Phi-3's do. */
  readonly stripsAsPhi3: boolean;
}

/**
 * The metadata that makes llama.cpp tokenize as the model's own tokenizer. A model without a tokenizer gets none.
 * A vocabulary of SentencePiece's kind without byte tokens gets them, with the embedding of the unknown token: llama.cpp
 * spells what it does not know in bytes, and ends the process where it cannot.
 * @param vocabSize rows of the embedding; those that the tokenizer lacks are named and unused.
 * @param preTokenizer one of {@link ggufPreTokenizers}, where the tokenizer is like none of them.
 * @throws {TuneError} `no-gguf-form` for kinds of tokenizers that llama.cpp does not have.
 */
export async function tokenizerMetadata(
  storage: Storage,
  folder: string,
  options: { readonly vocabSize: number; readonly preTokenizer?: string },
): Promise<GgufTokenizer> {
  const rows = Array.from({ length: options.vocabSize }, (_, id) => id);
  if (!(await storage.list(folder)).includes("tokenizer.json")) {
    return { metadata: { "tokenizer.ggml.model": text("none") }, rows, stripsAsPhi3: false };
  }
  const json = await readJsonObject(storage, joinPath(folder, "tokenizer.json"));
  const tokenizer = await loadTokenizer(storage, folder);
  const model = isJsonObject(json["model"]) ? json["model"] : {};
  if (model["type"] !== "BPE" && model["merges"] === undefined) {
    throw noForm(folder, `llama.cpp has no tokenizer like the model's (${String(model["type"])}).`);
  }
  const { names, types } = vocabulary(json, tokenizer, options.vocabSize);
  const merges = mergesOf(model);
  const unknown = names.indexOf(String(model["unk_token"]));
  if (!hasByteLevel(json) && !types.includes(tokenTypes.byte)) {
    if (unknown < 0) throw noForm(folder, "The vocabulary has neither byte tokens nor one for what is unknown.");
    for (let byte = 0; byte < 256; byte++) {
      names.push(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
      types.push(tokenTypes.byte);
      rows.push(unknown);
    }
  }
  const kind = hasByteLevel(json)
    ? {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(options.preTokenizer ?? findPreTokenizer(json, folder)),
        "tokenizer.ggml.merges": { type: "strings", value: merges.map((pair) => pair.join(" ")) },
      }
    : {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.scores": { type: "float32s", value: scores(names, merges) },
        "tokenizer.ggml.add_space_prefix": bool(prependsSpace(tokenizer, names)),
      };
  const template = tokenizer.chatTemplates.get("default");
  const ids = { bos: tokenizer.bosId, eos: tokenizer.eosId, padding: tokenizer.padId, eot: tokenizer.eosIds[1] };
  const metadata: GgufMetadata = {
    ...(kind as GgufMetadata), // either of the two above
    "tokenizer.ggml.tokens": { type: "strings", value: names },
    "tokenizer.ggml.token_type": { type: "int32s", value: types },
    ...Object.fromEntries(
      Object.entries({ ...ids, unknown: unknown < 0 ? undefined : unknown })
        .filter((entry): entry is [string, number] => entry[1] !== undefined)
        .map(([role, id]) => [`tokenizer.ggml.${role}_token_id`, uint32(id)]),
    ),
    "tokenizer.ggml.add_bos_token": bool(tokenizer.bosId !== undefined && tokenizer.encode("a")[0] === tokenizer.bosId),
    "tokenizer.ggml.add_eos_token": bool(false),
    ...(template === undefined ? {} : { "tokenizer.chat_template": text(template) }),
  };
  return { metadata, rows, stripsAsPhi3: stripsAsPhi3(json) };
}

/** Phi-3's special tokens that leave the white space behind them alone. */
const leftAlone: readonly string[] = ["<unk>", "<s>", "<|endoftext|>"];

/** Whether all added tokens but three strip to the right, `</s>` among them: what llama.cpp knows of Phi-3. */
function stripsAsPhi3({ added_tokens: added }: JsonObject): boolean {
  const entries = (Array.isArray(added) ? added : []).filter(isJsonObject);
  const strips = new Map(entries.map(({ content, rstrip }) => [String(content), rstrip === true]));
  const expected = [...leftAlone, "</s>"].every((token) => strips.has(token));
  return expected && [...strips].every(([token, does]) => does !== leftAlone.includes(token));
}

/**
 * `general.name` of a title. llama.cpp strips white space behind special tokens where it finds "phi-3" or "phi3" there,
 * whatever the architecture, and refuses the file when the vocabulary lacks Phi-3's tokens (src/llama-vocab.cpp); there
 * is no other way to ask for it.
 */
export function ggufName(title: string, { stripsAsPhi3 }: Pick<GgufTokenizer, "stripsAsPhi3">): string {
  if (!stripsAsPhi3) return title.replace(/phi-?3/gi, (name) => `${name.slice(0, 3)} 3`);
  return /phi-?3/i.test(title) ? title : `${title} (phi-3)`;
}

/** Every token as the vocabulary spells it, and what kind it is. */
function vocabulary(
  json: JsonObject,
  tokenizer: TextTokenizer,
  vocabSize: number,
): { readonly names: string[]; readonly types: number[] } {
  const added = new Map<number, boolean>(); // id -> whether it is special
  for (const entry of Array.isArray(json["added_tokens"]) ? json["added_tokens"] : []) {
    if (isJsonObject(entry)) added.set(Number(entry["id"]), entry["special"] === true);
  }
  const unknown = isJsonObject(json["model"]) ? json["model"]["unk_token"] : undefined;
  const names: string[] = [];
  const types: number[] = [];
  for (let id = 0; id < vocabSize; id++) {
    const name = tokenizer.tokenOf(id);
    names.push(name ?? `[PAD${id}]`);
    if (name === undefined) types.push(tokenTypes.unused);
    else if (name === unknown) types.push(tokenTypes.unknown);
    else if (added.has(id)) types.push(added.get(id) ? tokenTypes.control : tokenTypes.userDefined);
    else types.push(/^<0x[0-9A-F]{2}>$/.test(name) ? tokenTypes.byte : tokenTypes.normal);
  }
  return { names, types };
}

/** Pairs that are merged, the first before the others; files hold them as pairs or as texts with a space between. */
function mergesOf(model: JsonObject): readonly (readonly [string, string])[] {
  const merges = Array.isArray(model["merges"]) ? (model["merges"] as readonly unknown[]) : [];
  return merges.map((merge) => {
    const [left = "", right = ""] = Array.isArray(merge) ? merge.map(String) : String(merge).split(" ");
    return [left, right];
  });
}

/**
 * llama.cpp merges the two neighbours that make the token of the highest score, so a token's score is minus the place
 * of the merge that makes it. What no merge makes comes last.
 */
function scores(names: readonly string[], merges: readonly (readonly [string, string])[]): readonly number[] {
  const places = new Map<string, number>();
  merges.forEach(([left, right], place) => {
    const made = left + right;
    if (!places.has(made)) places.set(made, place);
  });
  return names.map((name) => -(places.get(name) ?? merges.length));
}

function prependsSpace(tokenizer: TextTokenizer, names: readonly string[]): boolean {
  const [first] = tokenizer.encode("a", { addSpecialTokens: false });
  return names[first ?? 0]?.startsWith("▁") === true;
}

/** Whether texts become bytes, spelt as GPT-2 spells them, before they are merged. */
function hasByteLevel(json: JsonObject): boolean {
  return /"type":"ByteLevel"/.test(JSON.stringify([json["pre_tokenizer"], json["decoder"]]));
}

/**
 * The pre-tokenizer of llama.cpp's with which the model's vocabulary gives the same tokens on every probe.
 * @throws {TuneError} `no-gguf-form` when none does, naming the nearest.
 */
function findPreTokenizer(json: JsonObject, folder: string): string {
  const own = createTokenizer({ tokenizer: json }, folder);
  const differing = new Map<string, number>();
  for (const [name, { patterns }] of Object.entries(ggufPreTokenizers)) {
    const tokenizer = createTokenizer({ tokenizer: { ...json, pre_tokenizer: sequenceOf(patterns) } }, folder);
    const same = (probe: string): boolean => ids(own, probe) === ids(tokenizer, probe);
    differing.set(name, probes.filter((probe) => !same(probe)).length);
  }
  const [best, count] = [...differing].sort(([, a], [, b]) => a - b)[0] as [string, number]; // the table is not empty
  if (count === 0) return best;
  throw noForm(
    folder,
    "llama.cpp has no pre-tokenizer that cuts texts as the model's does.",
    `name one (${Object.keys(ggufPreTokenizers).join(", ")}); ${best} gives the same tokens on ${probes.length - count} of ${probes.length} probes`,
  );
}

function ids(tokenizer: TextTokenizer, probe: string): string {
  try {
    return tokenizer.encode(probe, { addSpecialTokens: false }).join();
  } catch (error) {
    if (error instanceof TuneError && error.code === "text-not-encodable") return "not encodable";
    throw error;
  }
}

function sequenceOf(patterns: readonly string[]): JsonObject {
  const splits = patterns.map((Regex) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false }));
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  return { type: "Sequence", pretokenizers: [...splits, bytes] };
}

/** @throws {TuneError} `bad-option` for a name that the table does not have. */
export function checkPreTokenizer(name: string): void {
  const names = Object.keys(ggufPreTokenizers);
  if (names.includes(name)) return;
  throw new TuneError("bad-option", `There is no pre-tokenizer "${name}".`, {
    fix: `use one of ${names.join(", ")} (nearest: ${nearest(name, names, 1)[0] ?? names[0]})`,
  });
}

/** The error of a model that has no GGUF form. */
export function noForm(
  at: string,
  what: string | readonly string[],
  fix = "export it as safetensors or for transformers.js",
): TuneError {
  return new TuneError("no-gguf-form", what, { at, fix });
}
