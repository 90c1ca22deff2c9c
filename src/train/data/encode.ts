import { TuneError } from "../../errors.ts";
import type { ChatMessage, ChatTemplate, RenderOptions } from "../../io/chat-template.ts";
import type { TextTokenizer } from "../../io/tokenizer.ts";

/** Something worth telling about how a row was encoded; the row is used all the same. */
export type EncodeNote =
  /** A token spans the end of the prompt, so training starts before the end of the prompt's text. */
  | "border-moved"
  /** The template rewrites earlier turns once later ones follow (it drops their thinking, say): they are not trained. */
  | "earlier-turns-not-trained"
  /** What the template opens an answer with in generation is not how answers in the conversation start. */
  | "generation-prompt-differs"
  /** The trained text holds no token that ends generation, so the model will not learn to stop. */
  | "no-end-of-turn"
  /** Answers that the row gives the weight 0, or says not to train: they are not. */
  | "weight-zero"
  /** Answers that say nothing: they are not trained. */
  | "empty-turns"
  /** The chosen answer is the rejected one: there is nothing to prefer, and the row is left out. */
  | "no-preference";

/** A row as tokens: `trained[i]` is 1 where token i is to be learnt from the tokens before it. */
export interface EncodedRow {
  readonly ids: readonly number[];
  /** As long as `ids`. */
  readonly trained: Uint8Array;
  readonly notes: readonly EncodeNote[];
  /** What the row is preferred to, in data of preferences. */
  readonly against?: readonly Pick<EncodedRow, "ids" | "trained">[];
}

/** What encoding depends on, besides the row. */
export interface EncodeContext {
  readonly tokenizer: TextTokenizer;
  /** End texts and completions with EOS. */
  readonly appendEos: boolean;
  /** Passed on to chat templates. */
  readonly now?: Date;
}

/** A whole text: every token is trained but BOS. A text that begins with BOS itself gets no second one. */
export function encodeText(text: string, { tokenizer, appendEos }: EncodeContext): EncodedRow {
  const ids = withOneBos(tokenizer.encode(text), tokenizer);
  if (appendEos) endWithEos(ids, tokenizer);
  return { ids, trained: marks(ids, [[ids[0] === tokenizer.bosId ? 1 : 0, ids.length]]), notes: [] };
}

/** A prompt and its completion, joined as they are: the completion and the EOS behind it are trained. */
export function encodePair(
  { prompt, completion }: { readonly prompt: string; readonly completion: string },
  { tokenizer, appendEos }: EncodeContext,
): EncodedRow {
  const ids = withOneBos(tokenizer.encode(prompt + completion), tokenizer);
  if (appendEos) endWithEos(ids, tokenizer);
  const promptIds = withOneBos(tokenizer.encode(prompt), tokenizer);
  // Some tokenizers end every text with EOS; the prompt goes on, so its own is dropped.
  const last = promptIds.at(-1);
  if (last !== undefined && last === tokenizer.eosId && ids[promptIds.length - 1] !== last) promptIds.pop();
  const start = commonPrefix(promptIds, ids);
  return {
    ids,
    trained: marks(ids, [[start, ids.length]]),
    notes: start < promptIds.length ? ["border-moved"] : [],
  };
}

/**
 * A conversation in the model's chat template: every assistant turn is trained, with the tokens that end it.
 *
 * A template that marks answers (`{% generation %}`) says what of them is trained, as for transformers' assistant masks. In
 * any other, a turn's tokens are found by rendering the conversation up to the turn and including the turn, and tokenising
 * both; what a template writes behind its last turn alone (EOS, in Phi-3's) is not taken for a part of earlier ones. A turn
 * whose rendering changes otherwise once later messages follow has no such place and is left untrained, with a note.
 * @throws {TuneError} `chat-template-failed`, and `untrainable-conversation` when no assistant turn can be found.
 */
export function encodeConversation(
  conversation: {
    readonly messages: readonly ChatMessage[];
    readonly tools?: readonly unknown[];
    /** The first message that may be trained; 0 unless given. */
    readonly first?: number;
    /** For each message, whether it is trained if it is an answer; all are unless given. */
    readonly trained?: readonly boolean[];
  },
  template: ChatTemplate,
  { tokenizer, now }: EncodeContext,
): EncodedRow {
  const { messages, tools, first = 0, trained } = conversation;
  const options: Omit<RenderOptions, "addGenerationPrompt"> = {
    ...(tools === undefined ? {} : { tools }),
    ...(now === undefined ? {} : { now }),
  };
  const render = (count: number, addGenerationPrompt: boolean): string =>
    template.render(messages.slice(0, count), { ...options, addGenerationPrompt });
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });

  const { text: full, generated } = template.renderMarked(messages, { ...options, addGenerationPrompt: false });
  const ids = encode(full);
  const notes = new Set<EncodeNote>();
  const border = (text: string): number => {
    const prefix = encode(text);
    const shared = commonPrefix(prefix, ids);
    if (shared < prefix.length) notes.add("border-moved");
    return shared;
  };

  // Of what a template marks, a token that goes over a border is trained, as in transformers' masks.
  const tokensWithin = (text: string): number => {
    let count = border(text);
    if (notes.has("border-moved"))
      while (count < ids.length && text.startsWith(tokenizer.decode(ids.slice(0, count + 1)))) count++;
    return count;
  };
  const tokensOver = (text: string): number => {
    const least = border(text);
    if (!notes.has("border-moved")) return least;
    const most = Math.min(ids.length, least + longestMove);
    for (let count = least; count <= most; count++)
      if (tokenizer.decode(ids.slice(0, count)).startsWith(text)) return count;
    return least; // a tokenizer that does not give texts back as they were
  };

  const answers = messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : []));
  const wanted = answers.filter((i) => i >= first && trained?.[i] !== false);
  const spans: Span[] = [];
  const end = (text: string): number => (text.length === full.length ? ids.length : border(text));
  const marked = markedSpans(generated, answers, wanted);
  for (const [from, to] of marked ?? [])
    spans.push([tokensWithin(full.slice(0, from)), to === full.length ? ids.length : tokensOver(full.slice(0, to))]);
  const texts = Object.values(tokenizer.specialTokens);
  for (const i of marked ? [] : wanted) {
    const closed = i === messages.length - 1 ? full : startOf(full, render(i + 1, false), texts);
    const opened =
      closed === undefined
        ? undefined
        : openedText(closed, () => startOf(closed, render(i, false), texts), render(i, true));
    if (closed === undefined || opened === undefined) {
      notes.add("earlier-turns-not-trained");
      continue;
    }
    if (opened.differs) notes.add("generation-prompt-differs");
    spans.push([border(opened.text), end(closed)]);
  }
  if (spans.length === 0) {
    throw new TuneError("untrainable-conversation", "No assistant turn keeps its place in the rendered conversation.", {
      fix: "the chat template rewrites the turns: use prompt/completion rows, or a template that only appends",
    });
  }
  const ends = spans.some(([from, to]) => ids.slice(from, to).some((id) => tokenizer.eosIds.includes(id)));
  if (!ends) notes.add("no-end-of-turn");
  return { ids, trained: marks(ids, spans), notes: [...notes] };
}

/** By how many tokens a border may move where what follows it is tokenised with what stands before. */
const longestMove = 16;

type Span = readonly [start: number, end: number];

/** What a template marks of the answers that are wanted; undefined when it marks none, or not one place an answer. */
function markedSpans(
  generated: readonly Span[] | undefined,
  answers: readonly number[],
  wanted: readonly number[],
): readonly Span[] | undefined {
  if (generated === undefined || generated.length === 0) return undefined;
  const said = generated.filter(([start, end]) => end > start);
  if (wanted.length === answers.length) return said;
  if (generated.length !== answers.length) return undefined;
  return wanted.map((i) => generated[answers.indexOf(i)] as Span).filter(([start, end]) => end > start); // as many
}

/** A beginning of a text, without the special tokens and white space behind it that the text goes on without. */
function startOf(text: string, rendered: string, specialTokens: readonly string[]): string | undefined {
  let start = rendered;
  while (!text.startsWith(start)) {
    const token = specialTokens.find((special) => special !== "" && start.endsWith(special));
    const shorter = token === undefined ? start.trimEnd() : start.slice(0, -token.length);
    if (shorter.length === start.length) return undefined;
    start = shorter;
  }
  return start;
}

/** The part of a turn's rendering that the model is given; undefined when the rendering does not extend it. */
function openedText(
  closed: string,
  renderBefore: () => string | undefined,
  opened: string,
): { readonly text: string; readonly differs: boolean } | undefined {
  if (closed.startsWith(opened)) return { text: opened, differs: false };
  if (renderBefore() === undefined) return undefined;
  return { text: closed.slice(0, commonPrefix(opened, closed)), differs: true };
}

/** The first token has nothing before it to be learnt from, so it is never marked. */
function marks(ids: readonly number[], spans: readonly Span[]): Uint8Array {
  const trained = new Uint8Array(ids.length);
  for (const [start, end] of spans) trained.fill(1, start, end);
  trained[0] = 0;
  return trained;
}

/** Rows made for trainers that add no BOS begin with one already (transformers' own would add a second). */
function withOneBos(ids: number[], { bosId }: TextTokenizer): number[] {
  return bosId !== undefined && ids[0] === bosId && ids[1] === bosId ? ids.slice(1) : ids;
}

function endWithEos(ids: number[], { eosId }: TextTokenizer): void {
  if (eosId !== undefined && ids.at(-1) !== eosId) ids.push(eosId);
}

function commonPrefix(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
