import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";
import type { Sequence, TokenizedExample } from "./tokenize.ts";

/** Examples that are read when they are asked for. */
export interface ExampleStore {
  readonly count: number;
  /** Tokens of the longest sequence. */
  readonly longest: number;
  /** A hash of all tokens and of which are trained. */
  readonly hash: string;
  /** Examples by index. */
  at(indices: readonly number[]): Promise<readonly TokenizedExample[]>;
}

/** Examples in a store: held in memory when they are none yet. */
export async function storeOf(examples: readonly TokenizedExample[] | ExampleStore): Promise<ExampleStore> {
  if ("hash" in examples) return examples;
  const hasher = createHasher();
  for (const example of examples) await hasher.add(example);
  return {
    count: examples.length,
    longest: longestOf(examples),
    hash: await hasher.digest(),
    at: async (indices) => indices.map((index) => examples[index] as TokenizedExample), // indices of examples
  };
}

/**
 * Write examples to a file as they come, and read them from there: what stays in memory of each is where it stands (8
 * bytes). Each is its line, its number of sequences, and for each of these its length, its ids (all int32) and its marks,
 * filled up to a multiple of four bytes.
 */
export async function fileStore(
  storage: Storage,
  path: string,
  examples: AsyncIterable<readonly TokenizedExample[]>,
): Promise<ExampleStore> {
  const hasher = createHasher();
  const starts = growing();
  let longest = 0;
  async function* records(): AsyncGenerator<Uint8Array> {
    let at = cacheMark.length;
    yield cacheMark;
    for await (const some of examples) {
      const encoded: Uint8Array[] = [];
      for (const example of some) {
        await hasher.add(example);
        longest = Math.max(longest, longestOf([example]));
        const record = encodeExample(example);
        starts.push(at);
        at += record.length;
        encoded.push(record);
      }
      if (encoded.length > 0) yield joined(encoded);
    }
    starts.push(at);
  }
  await storage.write(path, records());
  const places = starts.values();
  return {
    count: places.length - 1,
    longest,
    hash: await hasher.digest(),
    at: (indices) =>
      Promise.all(
        indices.map(async (index) => {
          const [start, end] = [places[index] ?? 0, places[index + 1] ?? 0];
          return decodeExample(await storage.read(path, { start, end }));
        }),
      ),
  };
}

/** What a file of examples starts with: it is a cache, which may be removed. */
const cacheMark = new TextEncoder().encode("scion-examples-1");

/**
 * Remove what an earlier run left of its examples.
 * @throws {TuneError} `output-exists` when the file is something else.
 */
export async function removeCache(storage: Storage, path: string): Promise<void> {
  const size = await storage.sizeBytes(path);
  if (size === undefined) return;
  const start = await storage.read(path, { start: 0, end: Math.min(size, cacheMark.length) });
  if (start.length < cacheMark.length || start.some((byte, i) => byte !== cacheMark[i])) {
    throw new TuneError("output-exists", `${path} is no cache of examples, whose name it has: it stays as it is.`, {
      at: path,
      fix: "move it away, or choose another folder",
    });
  }
  await storage.remove(path);
}

/** The sequences of an example, itself first. */
export function sequencesOf(example: TokenizedExample): readonly Sequence[] {
  return [example, ...(example.against ?? [])];
}

/** Tokens of the longest sequence of some examples; 0 of none. */
export function longestOf(examples: readonly TokenizedExample[]): number {
  let longest = 0;
  for (const example of examples)
    for (const { inputIds } of sequencesOf(example)) longest = Math.max(longest, inputIds.length);
  return longest;
}

/** Tokens of all sequences of an example. */
export function tokensOf(example: TokenizedExample): number {
  return sequencesOf(example).reduce((sum, { inputIds }) => sum + inputIds.length, 0);
}

/** A list of numbers that takes 8 bytes for each, and half as much again while it grows. */
export function growing(): { push(value: number): void; values(): Float64Array } {
  let list = new Float64Array(1024);
  let length = 0;
  return {
    push: (value) => {
      if (length === list.length) {
        const larger = new Float64Array(Math.ceil(1.5 * length));
        larger.set(list);
        list = larger;
      }
      list[length++] = value;
    },
    values: () => list.subarray(0, length),
  };
}

function encodeExample(example: TokenizedExample): Uint8Array {
  const sequences = sequencesOf(example);
  const marksWords = ({ trained }: Sequence): number => Math.ceil(trained.length / 4);
  const words = sequences.reduce((sum, sequence) => sum + 1 + sequence.inputIds.length + marksWords(sequence), 2);
  const record = new Int32Array(words);
  const bytes = new Uint8Array(record.buffer);
  record.set([example.line, sequences.length]);
  let at = 2;
  for (const sequence of sequences) {
    record[at++] = sequence.inputIds.length;
    record.set(sequence.inputIds, at);
    at += sequence.inputIds.length;
    bytes.set(sequence.trained, 4 * at);
    at += marksWords(sequence);
  }
  return bytes;
}

function decodeExample(bytes: Uint8Array): TokenizedExample {
  const whole = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const record = new Int32Array(whole.buffer, whole.byteOffset, whole.length / 4);
  const [line = 0, count = 0] = record;
  let at = 2;
  const sequences = Array.from({ length: count }, (): Sequence => {
    const length = record[at++] ?? 0;
    const inputIds = record.slice(at, at + length);
    at += length;
    const trained = whole.slice(4 * at, 4 * at + length);
    at += Math.ceil(length / 4);
    return { inputIds, trained };
  });
  const [first, ...against] = sequences as [Sequence]; // an example has one
  return { ...first, ...(against.length > 0 ? { against } : {}), line };
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** How many tokens are hashed at once. */
const hashedWords = 2 ** 18;

/** SHA-256 over blocks of tokens, each with the hash of those before it, so that it takes no memory to speak of. */
function createHasher(): { add(example: TokenizedExample): Promise<void>; digest(): Promise<string> } {
  let words: number[] = [];
  let before = new Uint8Array(32);
  const close = async (): Promise<void> => {
    const block = new Uint8Array(32 + 4 * words.length);
    block.set(before);
    block.set(new Uint8Array(Int32Array.from(words).buffer), 32);
    before = new Uint8Array(await crypto.subtle.digest("SHA-256", block));
    words = [];
  };
  return {
    add: async (example) => {
      for (const { inputIds, trained } of sequencesOf(example)) {
        words.push(-inputIds.length);
        for (let i = 0; i < inputIds.length; i++) words.push(((inputIds[i] ?? 0) << 1) | (trained[i] ?? 0));
      }
      words.push(...new Int32Array(Float32Array.from(example.answers ?? []).buffer));
      if (words.length >= hashedWords) await close();
    },
    digest: async () => {
      await close();
      return Array.from(before, (byte) => byte.toString(16).padStart(2, "0")).join("");
    },
  };
}
