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

/** A whole text: every token is trained but BOS. */
export function encodeText(text: string, { tokenizer, appendEos }: EncodeContext): EncodedRow {
  const ids = tokenizer.encode(text);
  if (appendEos) endWithEos(ids, tokenizer);
  return { ids, trained: marks(ids, [[ids[0] === tokenizer.bosId ? 1 : 0, ids.length]]), notes: [] };
}

/** A prompt and its completion, joined as they are: the completion and the EOS behind it are trained. */
export function encodePair(
  { prompt, completion }: { readonly prompt: string; readonly completion: string },
  { tokenizer, appendEos }: EncodeContext,
): EncodedRow {
  const ids = tokenizer.encode(prompt + completion);
  if (appendEos) endWithEos(ids, tokenizer);
  const promptIds = tokenizer.encode(prompt);
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
 * A turn's tokens are found by rendering the conversation up to the turn and including the turn, and tokenising both:
 * this needs neither `{% generation %}` in the template nor offsets from the tokenizer. A turn whose rendering changes
 * once later messages follow has no such place and is left untrained, with a note.
 * @throws {TuneError} `chat-template-failed`, and `untrainable-conversation` when no assistant turn can be found.
 */
export function encodeConversation(
  conversation: {
    readonly messages: readonly ChatMessage[];
    readonly tools?: readonly unknown[];
    /** The first message that may be trained; 0 unless given. */
    readonly first?: number;
  },
  template: ChatTemplate,
  { tokenizer, now }: EncodeContext,
): EncodedRow {
  const { messages, tools, first = 0 } = conversation;
  const options: Omit<RenderOptions, "addGenerationPrompt"> = {
    ...(tools === undefined ? {} : { tools }),
    ...(now === undefined ? {} : { now }),
  };
  const render = (count: number, addGenerationPrompt: boolean): string =>
    template.render(messages.slice(0, count), { ...options, addGenerationPrompt });
  const encode = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false });

  const full = render(messages.length, false);
  const ids = encode(full);
  const notes = new Set<EncodeNote>();
  const border = (text: string): number => {
    const prefix = encode(text);
    const shared = commonPrefix(prefix, ids);
    if (shared < prefix.length) notes.add("border-moved");
    return shared;
  };

  const spans: Span[] = [];
  for (const [i, message] of messages.entries()) {
    if (message.role !== "assistant" || i < first) continue;
    const closed = i === messages.length - 1 ? full : render(i + 1, false);
    const opened = full.startsWith(closed) ? openedText(closed, () => render(i, false), render(i, true)) : undefined;
    if (opened === undefined) {
      notes.add("earlier-turns-not-trained");
      continue;
    }
    if (opened.differs) notes.add("generation-prompt-differs");
    spans.push([border(opened.text), closed === full ? ids.length : border(closed)]);
  }
  if (spans.length === 0) {
    throw new TuneError("untrainable-conversation", "No assistant turn keeps its place in the rendered conversation.", {
      fix: "the chat template rewrites the turns: use prompt/completion rows, or a template that only appends",
    });
  }
  const ends = spans.some(([start, end]) => ids.slice(start, end).some((id) => tokenizer.eosIds.includes(id)));
  if (!ends) notes.add("no-end-of-turn");
  return { ids, trained: marks(ids, spans), notes: [...notes] };
}

type Span = readonly [start: number, end: number];

/** The part of a turn's rendering that the model is given; undefined when the rendering does not extend it. */
function openedText(
  closed: string,
  renderBefore: () => string,
  opened: string,
): { readonly text: string; readonly differs: boolean } | undefined {
  if (closed.startsWith(opened)) return { text: opened, differs: false };
  if (!closed.startsWith(renderBefore())) return undefined;
  return { text: closed.slice(0, commonPrefix(opened, closed)), differs: true };
}

/** The first token has nothing before it to be learnt from, so it is never marked. */
function marks(ids: readonly number[], spans: readonly Span[]): Uint8Array {
  const trained = new Uint8Array(ids.length);
  for (const [start, end] of spans) trained.fill(1, start, end);
  trained[0] = 0;
  return trained;
}

function endWithEos(ids: number[], { eosId }: TextTokenizer): void {
  if (eosId !== undefined && ids.at(-1) !== eosId) ids.push(eosId);
}

function commonPrefix(a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
