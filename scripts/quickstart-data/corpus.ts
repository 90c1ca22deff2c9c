import { createRng, type Rng } from "../../src/linalg/rng.ts";
import { type EventKind, eventKinds, facts } from "./events.ts";
import { capitalise, chance, type Filled, fill, pick, type Spoken } from "./grammar.ts";
import { entities, numberWords, slots } from "./slots.ts";
import { currencies, phrases } from "./words.ts";

/**
 * The pretraining corpus: descriptions of everyday happenings, questions about them, records of them in JSON, echoes
 * and plain facts. It teaches English words, copying and the syntax of JSON. It holds no request of the task, no call
 * and no name of a function. Each document is text that holds its own `<|user|>`, `<|assistant|>` and `<|eos|>` marks;
 * the tokenizer puts `<|bos|>` in front.
 */
export function makeCorpus(seed: number, documents: number): string[] {
  return Array.from({ length: documents }, (_, index) => makeDocument(createRng(seed, "corpus", index)));
}

const documentLength = 370; // characters, about 120 tokens

function makeDocument(rng: Rng): string {
  let text = makePiece(rng);
  for (;;) {
    const longer = text + makePiece(rng);
    if (longer.length > documentLength) return text;
    text = longer;
  }
}

function makePiece(rng: Rng): string {
  const draw = rng.uniform();
  if (draw < 0.09) return prose(rng);
  if (draw < 0.34) return exchange(...fieldsToRecord(rng));
  if (draw < 0.54) return exchange(...kindToRecord(rng));
  if (draw < 0.64) return exchange(...question(rng));
  if (draw < 0.74) return exchange(...conversion(rng));
  if (draw < 0.95) return exchange(...echo(rng));
  return exchange(...recordToSentence(rng));
}

function exchange(user: string, assistant: string): string {
  return `<|user|>${user}<|assistant|>${assistant}<|eos|>`;
}

interface Happening extends Filled {
  readonly kind: string;
  readonly record: Readonly<Record<string, Spoken["value"]>>;
}

function happen(rng: Rng, { kind, record, ways }: EventKind = pick(rng, eventKinds)): Happening {
  const filled = fill(rng, pick(rng, ways), slots);
  const known = Object.entries(record).flatMap(([key, slot]): [string, Spoken["value"]][] => {
    const value = filled.values[slot];
    return value === undefined ? [] : [[key, value]];
  });
  const text = chance(rng, 0.5) ? capitalise(filled.text) : filled.text;
  return { ...filled, text: chance(rng, 0.4) ? `${text}.` : text, kind, record: Object.fromEntries(known) };
}

function prose(rng: Rng): string {
  const sentences = Array.from({ length: 1 + rng.integer(3) }, () =>
    capitalise(chance(rng, 0.4) ? pick(rng, facts) : fill(rng, pick(rng, pick(rng, eventKinds).ways), slots).text),
  );
  return `${sentences.join(". ")}.<|eos|>`;
}

/** The keys are given, in any order, with any names: the values are to be found. */
function fieldsToRecord(rng: Rng): [string, string] {
  const { text, record } = happen(rng);
  const entries = rng.shuffle(Object.entries(record)).slice(0, 1 + rng.integer(3));
  const keys = entries.map(([key]) => key).join(", ");
  const found = JSON.stringify(Object.fromEntries(entries));
  return [chance(rng, 0.5) ? `${keys}: ${text}` : `${text} (${keys})`, found];
}

/** Nothing is given but the sentence: its kind decides the record. */
function kindToRecord(rng: Rng): [string, string] {
  const { text, kind, record } = happen(rng);
  return [text, JSON.stringify({ [kind]: record })];
}

function question(rng: Rng): [string, string] {
  const { text, record } = happen(rng);
  const [key, value] = pick(rng, Object.entries(record));
  return [`${text.replace(/\.$/, "")}. What is the ${key}?`, String(value)];
}

/** One notation into another: clocks, numbers, durations and currencies. */
function conversion(rng: Rng): [string, string] {
  const name = pick(rng, ["time", "duration", "number", "currency"]);
  if (name === "number") {
    const value = rng.integer(100);
    return [`number: ${numberWords(value)}`, String(value)];
  }
  if (name === "currency") {
    const { one, many, code } = pick(rng, currencies);
    return [`currency: ${pick(rng, [one, many])}`, code];
  }
  const { text, values } = fill(rng, `{${name}}`, slots);
  return [`${name}: ${text}`, String(values[name])];
}

/** Every word of the phrases, the facts and the ways to tell a happening, once. */
const vocabulary: readonly string[] = [
  ...new Set(
    [...eventKinds.flatMap(({ ways }) => ways), ...facts, ...phrases].flatMap(
      (text) => text.replace(/\{\w+\}/g, "").match(/\p{L}+/gu) ?? [],
    ),
  ),
];

/** Words in an order that means nothing, to be said again: the plainest exercise in copying. */
function echo(rng: Rng): [string, string] {
  const names = Object.keys(entities);
  const words = Array.from({ length: 2 + rng.integer(5) }, () => {
    const draw = rng.uniform();
    if (draw < 0.15) return syllables(rng);
    return draw < 0.55 ? pick(rng, vocabulary) : fill(rng, `{${pick(rng, names)}}`, entities).text;
  });
  const [first = "", ...rest] = words;
  const draw = rng.uniform();
  if (draw < 0.3) return [`Repeat: ${words.join(" ")}`, words.join(" ")];
  if (draw < 0.6) return [`"${words.join(" ")}"`, JSON.stringify({ text: words.join(" ") })];
  const key = chance(rng, 0.5) ? pick(rng, vocabulary) : `${pick(rng, vocabulary)}_${pick(rng, vocabulary)}`;
  if (draw < 0.8) return [`${key} is ${words.join(" ")}`, JSON.stringify({ [key]: words.join(" ") })];
  return [`${key}: ${first}, rest: ${rest.join(" ")}`, JSON.stringify({ [key]: first, rest: rest.join(" ") })];
}

function syllables(rng: Rng): string {
  const syllable = (): string =>
    pick(rng, [..."bdfgklmnprstvz"]) + pick(rng, [..."aeiou"]) + pick(rng, ["", ..."nrls"]);
  return Array.from({ length: 1 + rng.integer(3) }, syllable).join("");
}

function recordToSentence(rng: Rng): [string, string] {
  const kind = pick(rng, eventKinds);
  const { values } = fill(rng, pick(rng, kind.ways), slots);
  const said = Object.entries(values).map(([slot, value]) => `${slot.replace(/\d$/, "")} ${value}`);
  return [JSON.stringify(values), `${said.join(", ")}.`];
}
