import { TuneError } from "../../errors.ts";
import type { TextTokenizer } from "../../io/tokenizer.ts";
import type { InputForm, Numbers } from "../../models/index.ts";

/** Texts as the whole numbers that a model reads, cut at its longest length. */
export interface TextReader {
  /** The number that fills rows up. */
  readonly padId: number;
  /** One text, or two with what the model expects between them. `cut` says whether something was left out. */
  read(text: string, second?: string): Numbers & { readonly cut: boolean };
  /** Words, and for each number the word that it begins; −1 where it begins none. */
  readWords(words: readonly string[]): Numbers & { readonly cut: boolean; readonly begins: readonly number[] };
  /** The text of numbers, for people. */
  show(numbers: Int32Array): string;
}

/**
 * The reader of a model: code points where it reads characters, a tokenizer's ids otherwise.
 * @throws {TuneError} what making the tokenizer throws.
 */
export async function openReader(
  reads: InputForm,
  length: number,
  tokenizer: () => Promise<TextTokenizer>,
): Promise<TextReader> {
  return reads.kind === "tokens" ? tokenReader(await tokenizer(), length) : characterReader(length);
}

/** Code points. Of two texts only the first can be read. */
function characterReader(length: number): TextReader {
  const read: TextReader["read"] = (text, second) => {
    if (second !== undefined) {
      throw new TuneError("task-mismatch", "A model that reads characters takes one text at a time.", {
        fix: 'give rows with "text" alone, or pairs for sentence embeddings',
      });
    }
    const points = Int32Array.from([...text], (character) => character.codePointAt(0) ?? 0);
    return { inputIds: points.slice(0, length), cut: points.length > length };
  };
  return {
    padId: 0,
    read,
    readWords: (words) => ({ ...read(words.join(" ")), begins: [] }),
    show: (numbers) => String.fromCodePoint(...numbers),
  };
}

/** What a tokenizer puts around texts: ids and the kinds of text that they belong to. */
interface Frame {
  readonly parts: readonly (readonly number[])[];
  readonly types: readonly number[];
}

function tokenReader(tokenizer: TextTokenizer, length: number): TextReader {
  const single = frameOf(tokenizer, ["a"]);
  let double: Frame | undefined;
  const ids = (text: string): readonly number[] => tokenizer.encode(text, { addSpecialTokens: false });
  const build = (frame: Frame, texts: readonly (readonly number[])[]): Numbers & { readonly cut: boolean } => {
    const around = frame.parts.reduce((sum, part) => sum + part.length, 0);
    const kept = shorten(texts, Math.max(0, length - around));
    const inputIds = frame.parts.flatMap((part, i) => [...part, ...(kept[i] ?? [])]);
    const typeIds = frame.parts.flatMap((part, i) => [
      ...part.map((_, j) => frame.types[partStart(frame, i) + j] ?? 0),
      ...(kept[i] ?? []).map(() => i),
    ]);
    const cut = texts.some((text, i) => text.length !== kept[i]?.length);
    return { inputIds: Int32Array.from(inputIds), typeIds: Uint8Array.from(typeIds), cut };
  };
  // Byte-level vocabularies tell words inside a text by the space before them.
  const spaced = tokenizer.tokenOf(ids(" a")[0] ?? -1)?.startsWith("Ġ") === true;
  return {
    padId: tokenizer.padId ?? tokenizer.eosId ?? 0,
    read: (text, second) => {
      if (second === undefined) return build(single, [ids(text)]);
      double ??= frameOf(tokenizer, ["a", "b"]);
      return build(double, [ids(text), ids(second)]);
    },
    readWords: (words) => {
      const pieces = words.map((word) => ids(spaced ? ` ${word}` : word));
      const whole = build(single, [pieces.flat()]);
      const before = single.parts[0]?.length ?? 0;
      const begins: number[] = Array<number>(whole.inputIds.length).fill(-1);
      let at = before;
      for (const [i, piece] of pieces.entries()) {
        if (piece.length > 0 && at + piece.length <= whole.inputIds.length) begins[at] = i;
        at += piece.length;
      }
      return { ...whole, begins };
    },
    show: (numbers) => tokenizer.decode(numbers),
  };
}

/** Find what surrounds texts by encoding short ones with it and without. */
function frameOf(tokenizer: TextTokenizer, texts: readonly string[]): Frame {
  const { ids: whole, typeIds } = tokenizer.encodeTyped(texts[0] ?? "", texts[1]);
  const parts: number[][] = [];
  const types: number[] = [];
  let at = 0;
  for (const text of texts) {
    const content = tokenizer.encode(text, { addSpecialTokens: false });
    const start = findFrom(whole, content, at);
    parts.push(whole.slice(at, start));
    types.push(...typeIds.slice(at, start));
    at = start + content.length;
  }
  parts.push(whole.slice(at));
  types.push(...typeIds.slice(at));
  return { parts, types };
}

function findFrom(whole: readonly number[], part: readonly number[], from: number): number {
  for (let start = from; start + part.length <= whole.length; start++) {
    if (part.every((id, i) => whole[start + i] === id)) return start;
  }
  return from;
}

function partStart({ parts }: Frame, index: number): number {
  return parts.slice(0, index).reduce((sum, part) => sum + part.length, 0);
}

/**
 * Cut texts to fit together: the longer one to what the shorter leaves, or both to halves, as transformers'
 * `longest_first`.
 */
function shorten(texts: readonly (readonly number[])[], room: number): readonly (readonly number[])[] {
  const lengths = texts.map((text) => text.length);
  if (lengths.reduce((sum, length) => sum + length, 0) <= room) return texts;
  const [first = 0, second = 0] = lengths;
  if (texts.length === 1) return [texts[0]?.slice(0, room) ?? []];
  const half = Math.floor(room / 2);
  const short = Math.min(first, second);
  const [less, more] = short + Math.max(short, room - short) > room ? [half, room - half] : [short, room - short];
  const kept = first > second ? [more, less] : [less, more];
  return texts.map((text, i) => text.slice(0, kept[i]));
}
