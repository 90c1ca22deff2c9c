import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { golden } from "../../../tests/helpers/golden.ts";
import { loadTokenizer } from "../../io/tokenizer.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { openReader } from "./reader.ts";

interface Typed {
  readonly ids: readonly number[];
  readonly types: readonly number[];
}

interface Expected {
  readonly texts: readonly Typed[];
  readonly pair: Typed;
  readonly cut: Typed;
  readonly words: { readonly ids: readonly number[]; readonly begins: readonly number[] };
}

const { texts, words, ...kinds } = JSON.parse(readFileSync(golden("encoder-tokenizers/expected.json"), "utf8")) as {
  texts: readonly string[];
  words: readonly string[];
} & Readonly<Record<string, Expected>>; // ours

const reads = {
  kind: "tokens",
  length: 0,
  imageSize: 0,
  feed: () => ({ feeds: {}, sizes: { batch: 0, seq: 0 } }),
} as const;

describe("texts, pairs and words become the ids that transformers gives them", () => {
  it.each(Object.entries(kinds) as [string, Expected][])("%s", async (kind, expected) => {
    const tokenizer = await loadTokenizer(nodeStorage, golden(`encoder-tokenizers/${kind}`));
    const open = (length: number): ReturnType<typeof openReader> => openReader(reads, length, async () => tokenizer);
    const reader = await open(64);
    const plain = ({ inputIds, typeIds }: { inputIds: Int32Array; typeIds?: Uint8Array }): Typed => ({
      ids: [...inputIds],
      types: [...(typeIds ?? [])],
    });
    expect(texts.map((text) => plain(reader.read(text)))).toEqual(expected.texts);
    const pair = [texts[0] ?? "", texts[1] ?? ""] as const;
    // RoBERTa's own post-processor gives both texts the type 0.
    const types = expected.pair.types.includes(1);
    const { ids, types: found } = plain(reader.read(...pair));
    expect(ids).toEqual(expected.pair.ids);
    if (types) expect(found).toEqual(expected.pair.types);
    const cut = (await open(9)).read(...pair);
    expect([...cut.inputIds]).toEqual(expected.cut.ids);
    expect(cut.cut).toBe(true);
    const { inputIds, begins } = reader.readWords(words);
    expect({ ids: [...inputIds], begins: [...begins] }).toEqual(expected.words);
  });

  it("characters are code points", async () => {
    const reader = await openReader({ ...reads, kind: "characters" }, 4, () => Promise.reject(new Error("none")));
    expect(reader.read("a🙂bcd")).toEqual({ inputIds: Int32Array.of(97, 0x1f642, 98, 99), cut: true });
    expect(() => reader.read("a", "b")).toThrow(/one text/);
  });
});
