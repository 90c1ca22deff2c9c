/**
 * A byte-level BPE tokenizer, trained from text. Gage 1994; Sennrich et al. 2016 (arXiv 1508.07909), algorithm 1;
 * bytes as in GPT-2.
 *
 * One departure: a space joins the word after it only once every other merge is learned, and only for the most
 * frequent words. So a word is cut into the same tokens after a space and after a quotation mark, and copying a word
 * from a sentence into JSON is copying its tokens.
 */

/** How text is cut before merging: single digits, runs of letters or of marks, each with the space before it. */
export const splitPattern = "\\p{N}| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+";

/** A trained vocabulary: tokens in order of their ids (from 0) and the merges in order of their rank. */
export interface Bpe {
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [string, string])[];
}

/** The printable character that stands for each byte in the files of a byte-level tokenizer (GPT-2). */
export const byteAlphabet: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(printable ? byte : next++);
  });
})();

const space = byteAlphabet[32] ?? " ";

/**
 * Learn `wordMerges` merges within words and marks, then `spaceMerges` merges of a space with a token that starts a
 * word. Ties go to the pair that sorts first, so the result depends on the texts alone.
 */
export function trainBpe(texts: Iterable<string>, options: { wordMerges: number; spaceMerges: number }): Bpe {
  const words = countWords(texts);
  const merges: [string, string][] = [];
  const learn = (count: number, allowed: (left: string) => boolean): void => {
    for (let step = 0; step < count; step++) {
      const pair = mostFrequentPair(words, allowed);
      if (pair === undefined) return;
      merges.push(pair);
      for (const word of words) word.parts = mergePair(word.parts, pair);
    }
  };
  learn(options.wordMerges, (left) => left !== space);
  learn(options.spaceMerges, (left) => left === space);
  return { tokens: [...byteAlphabet, ...merges.map(([left, right]) => left + right)], merges };
}

interface Word {
  readonly count: number;
  parts: readonly string[];
}

function countWords(texts: Iterable<string>): Word[] {
  const counts = new Map<string, number>();
  const pattern = new RegExp(splitPattern, "gu");
  for (const text of texts) {
    for (const [word] of text.matchAll(pattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts].map(([word, count]) => ({
    count,
    parts: Array.from(encoder.encode(word), (byte) => byteAlphabet[byte] ?? ""),
  }));
}

function mostFrequentPair(words: readonly Word[], allowed: (left: string) => boolean): [string, string] | undefined {
  const counts = new Map<string, { pair: [string, string]; count: number }>();
  for (const { parts, count } of words) {
    for (let i = 0; i + 1 < parts.length; i++) {
      const [left = "", right = ""] = [parts[i], parts[i + 1]];
      if (!allowed(left)) continue;
      const key = `${left} ${right}`;
      const entry = counts.get(key);
      if (entry === undefined) counts.set(key, { pair: [left, right], count });
      else entry.count += count;
    }
  }
  let best: { key: string; pair: [string, string]; count: number } | undefined;
  for (const [key, { pair, count }] of counts) {
    if (best === undefined || count > best.count || (count === best.count && key < best.key))
      best = { key, pair, count };
  }
  return best?.pair;
}

function mergePair(parts: readonly string[], [left, right]: readonly [string, string]): readonly string[] {
  const merged: string[] = [];
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i] ?? "";
    if (part === left && parts[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else {
      merged.push(part);
    }
  }
  return merged.length === parts.length ? parts : merged;
}
