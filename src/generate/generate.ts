import { createTokenStream } from "../io/token-stream.ts";
import type { TextTokenizer } from "../io/tokenizer.ts";
import { createRng } from "../linalg/index.ts";
import { checkWhole } from "../options.ts";
import type { StopSignal } from "../signal.ts";
import type { Continuation, Decoder, StartOptions } from "./decoder.ts";
import { resolveSampling, type SampleOptions, sampleToken } from "./sample.ts";

/** When to stop, and how to choose. */
export interface GenerateOptions extends Partial<SampleOptions> {
  /** Most tokens to add; up to the context when absent. */
  readonly maxNewTokens?: number;
  /** Texts that end the answer; they are not part of it. */
  readonly stop?: readonly string[];
  /** Decides sampling. */
  readonly seed?: number;
  /** The adapter that acts, by name, or null for none; the decoder's first unless given. */
  readonly use?: string | null;
  readonly signal?: StopSignal;
}

/** What was generated. */
export interface Generation {
  /** The new text, without special tokens. */
  readonly text: string;
  /** The new tokens, the one that ended it included. */
  readonly ids: readonly number[];
  readonly promptTokens: number;
  /** `stop`: an end token or a stop text; `length`: no room or enough tokens; `aborted`: by the signal. */
  readonly finishReason: "stop" | "length" | "aborted";
}

/**
 * Continue one prompt, giving text as it becomes complete; the generator returns the whole.
 * @throws {TuneError} for options out of range, a prompt that does not fit, scores that are not finite.
 */
export async function* generateText(
  decoder: Decoder,
  tokenizer: TextTokenizer,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<string, Generation> {
  const sampling = resolveSampling(options);
  checkWhole("maxNewTokens", options.maxNewTokens, 0, "generation");
  checkWhole("seed", options.seed, 0, "generation");
  const stops = options.stop ?? [];
  const longestStop = Math.max(0, ...stops.map(({ length }) => length));
  const rng = createRng(options.seed ?? 0, "generate");
  const stream = createTokenStream(tokenizer);
  const ids: number[] = [];
  let text = "";
  let given = 0;
  let stopped = false; // by a stop text, which cuts the rest off
  let finishReason: Generation["finishReason"] = "length";
  if (options.signal?.aborted) return { text, ids, promptTokens: prompt.length, finishReason: "aborted" };
  let at = await decoder.start([prompt], startOptions(options));
  try {
    const limit = Math.min(options.maxNewTokens ?? Number.POSITIVE_INFINITY, at.room);
    while (ids.length < limit) {
      if (options.signal?.aborted) {
        finishReason = "aborted";
        break;
      }
      const id = sampleToken(at.logits[0] ?? new Float32Array(), seenIn(prompt, ids), sampling, rng);
      ids.push(id);
      if (tokenizer.eosIds.includes(id)) {
        finishReason = "stop";
        break;
      }
      text += stream.push(id);
      const cut = firstStop(text, stops);
      if (cut !== undefined) {
        finishReason = "stop";
        stopped = true;
        text = text.slice(0, cut);
        break;
      }
      // The end of the text may be the beginning of a stop text.
      const safe = Math.max(given, text.length - Math.max(0, longestStop - 1));
      if (safe > given) yield text.slice(given, safe);
      given = safe;
      if (ids.length < limit) at = await at.next([id]);
    }
    if (!stopped) text += stream.end();
    if (text.length > given) yield text.slice(given);
    return { text, ids, promptTokens: prompt.length, finishReason };
  } finally {
    await at.end();
  }
}

function startOptions({ use }: GenerateOptions): StartOptions {
  return use === undefined ? {} : { use };
}

/**
 * Continue several prompts side by side; a finished one waits for the others.
 * @throws {TuneError} as {@link generateText}.
 */
export async function generateBatch(
  decoder: Decoder,
  tokenizer: TextTokenizer,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<readonly Generation[]> {
  const sampling = resolveSampling(options);
  const rngs = prompts.map((_, i) => createRng(options.seed ?? 0, "generate", i));
  const rows = prompts.map((prompt) => ({ prompt, ids: [] as number[], done: false }));
  let at: Continuation = await decoder.start(prompts, startOptions(options));
  try {
    const limit = Math.min(options.maxNewTokens ?? Number.POSITIVE_INFINITY, at.room);
    for (let count = 0; count < limit && rows.some(({ done }) => !done) && !options.signal?.aborted; count++) {
      const tokens = rows.map((row, i) => {
        if (row.done) return 0;
        const rng = rngs[i] ?? createRng(0);
        const id = sampleToken(at.logits[i] ?? new Float32Array(), seenIn(row.prompt, row.ids), sampling, rng);
        row.ids.push(id);
        row.done = tokenizer.eosIds.includes(id);
        return id;
      });
      if (count + 1 < limit && rows.some(({ done }) => !done)) at = await at.next(tokens);
    }
    return rows.map(({ prompt, ids, done }) => ({
      text: tokenizer.decode(ids, { skipSpecialTokens: true }),
      ids,
      promptTokens: prompt.length,
      finishReason: done ? "stop" : options.signal?.aborted ? "aborted" : "length",
    }));
  } finally {
    await at.end();
  }
}

function* seenIn(prompt: readonly number[], ids: readonly number[]): Generator<number> {
  yield* prompt;
  yield* ids;
}

function firstStop(text: string, stops: readonly string[]): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop)).filter((index) => index >= 0);
  return found.length > 0 ? Math.min(...found) : undefined;
}
