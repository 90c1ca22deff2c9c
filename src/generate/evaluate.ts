import type { TextTokenizer } from "../io/tokenizer.ts";
import type { TokenizedExample } from "../train/data/index.ts";
import type { Decoder } from "./decoder.ts";
import { generateBatch } from "./generate.ts";

/** One question of an exact-match evaluation, answered. */
export interface Answer {
  /** Line of the data where the question stands. */
  readonly line: number;
  readonly expected: string;
  readonly given: string;
  readonly matches: boolean;
}

/** How many answers were exactly right. */
export interface ExactMatch {
  readonly matches: number;
  readonly total: number;
  /** Examples without a prompt before what is learnt (plain text), which ask nothing. */
  readonly skipped: number;
  readonly answers: readonly Answer[];
}

/**
 * Exact match by greedy decoding: each example's last learnt span is the expected answer, everything before it the
 * prompt. Answers are compared as text, outer white space aside. Prompts of like length are answered side by side.
 */
export async function exactMatch(
  decoder: Decoder,
  tokenizer: TextTokenizer,
  examples: readonly TokenizedExample[],
  options: { readonly batchSize?: number; readonly onProgress?: (done: number, total: number) => void } = {},
): Promise<ExactMatch> {
  const { batchSize = 32, onProgress } = options;
  const questions = examples.flatMap((example) => questionOf(example) ?? []);
  questions.sort((a, b) => a.prompt.length - b.prompt.length || a.line - b.line);
  const answers: Answer[] = [];
  for (let i = 0; i < questions.length; i += batchSize) {
    const batch = questions.slice(i, i + batchSize);
    // An answer longer than the expected one by a fifth is wrong already: nothing is gained by going on.
    const maxNewTokens = Math.ceil(1.2 * Math.max(...batch.map(({ answer }) => answer.length))) + 4;
    const prompts = batch.map(({ prompt }) => prompt);
    for (const [j, { text }] of (await generateBatch(decoder, tokenizer, prompts, { maxNewTokens })).entries()) {
      const { line = 0, answer = [] } = batch[j] ?? {};
      const expected = tokenizer.decode(answer, { skipSpecialTokens: true }).trim();
      const given = text.trim();
      answers.push({ line, expected, given, matches: given === expected });
    }
    onProgress?.(answers.length, questions.length);
  }
  answers.sort((a, b) => a.line - b.line);
  return {
    matches: answers.filter(({ matches }) => matches).length,
    total: answers.length,
    skipped: examples.length - questions.length,
    answers,
  };
}

interface Question {
  readonly line: number;
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
}

function questionOf({ inputIds, trained, line }: TokenizedExample): Question | undefined {
  const end = trained.lastIndexOf(1) + 1;
  let start = end;
  while (start > 0 && trained[start - 1] === 1) start--;
  // A text learnt from its second token on has only BOS before it.
  if (start <= 1) return undefined;
  return { line, prompt: [...inputIds.subarray(0, start)], answer: [...inputIds.subarray(start, end)] };
}

/** Exact match of an encoder–decoder: what it makes of each source, greedily, compared as text with the target. */
export async function exactTargets(
  tokenizer: TextTokenizer,
  examples: readonly TokenizedExample[],
  generateBatch: (sources: readonly Int32Array[], maxNewTokens: number) => Promise<readonly (readonly number[])[]>,
  options: { readonly batchSize?: number; readonly onProgress?: (done: number, total: number) => void } = {},
): Promise<ExactMatch> {
  const { batchSize = 32, onProgress } = options;
  const sorted = examples.toSorted((a, b) => a.inputIds.length - b.inputIds.length);
  const answers: Answer[] = [];
  for (let i = 0; i < sorted.length; i += batchSize) {
    const batch = sorted.slice(i, i + batchSize);
    const targets = batch.map(({ against }) => [...(against?.[0]?.inputIds ?? [])]);
    const longest = Math.max(...targets.map(({ length }) => length));
    const sources = batch.map(({ inputIds }) => inputIds);
    for (const [j, ids] of (await generateBatch(sources, Math.ceil(1.2 * longest) + 4)).entries()) {
      const expected = tokenizer.decode(targets[j] ?? [], { skipSpecialTokens: true }).trim();
      const given = tokenizer.decode(ids, { skipSpecialTokens: true }).trim();
      answers.push({ line: batch[j]?.line ?? 0, expected, given, matches: given === expected });
    }
    onProgress?.(answers.length, sorted.length);
  }
  answers.sort((a, b) => a.line - b.line);
  return { matches: answers.filter(({ matches }) => matches).length, total: answers.length, skipped: 0, answers };
}
