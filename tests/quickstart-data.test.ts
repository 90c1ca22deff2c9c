import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { describe, expect, it } from "vitest";
import { trainBpe } from "../scripts/quickstart-data/bpe.ts";
import { makeQuickstartData, withoutMarks } from "../scripts/quickstart-data/index.ts";
import { requestFinder } from "../scripts/quickstart-data/overlap.ts";
import { callables } from "../scripts/quickstart-data/requests.ts";
import { numberWords } from "../scripts/quickstart-data/slots.ts";
import { requestKey, reservedNames } from "../scripts/quickstart-data/split.ts";
import { contextLength } from "../scripts/quickstart-data/tokenizer.ts";

const { task, corpus, files } = makeQuickstartData();
const requests = [...task.train, ...task.heldout];

function parsed(path: string): object {
  const value: unknown = JSON.parse(files[path] ?? "null");
  if (typeof value !== "object" || value === null) throw new Error(`${path} holds no object.`);
  return value;
}

describe("the quickstart's data", () => {
  it("is what the repository ships", () => {
    for (const [path, text] of Object.entries(files)) {
      const shipped = readFileSync(new URL(`../assets/quickstart/${path}`, import.meta.url), "utf8");
      expect(shipped === text, `assets/quickstart/${path} is out of date: run scripts/make-quickstart-data.ts`).toBe(
        true,
      );
    }
  });

  it("repeats no request, in training or held out", () => {
    expect(new Set(requests.map(({ text }) => requestKey(text))).size).toBe(requests.length);
  });

  it("shares no request with the pretraining corpus", () => {
    const requestsIn = requestFinder(requests.map(({ text }) => text));
    expect(corpus.flatMap(withoutMarks).flatMap(requestsIn)).toEqual([]);
    expect(requestsIn(`he said "${requests[7]?.text.toUpperCase()}" and left`)).toHaveLength(1); // it does see one
  });

  it("keeps the shape of the calls out of the pretraining corpus", () => {
    const text = corpus.join("\n");
    for (const word of ["arguments", ...callables.map(({ name }) => name)])
      expect(text.includes(word), word).toBe(false);
  });

  it("asks for every function equally often, with arguments in their order", () => {
    for (const { name, arguments: known } of callables) {
      const calls = task.heldout.map(({ call }) => JSON.parse(call)).filter((call) => call.name === name);
      expect(calls).toHaveLength(task.heldout.length / callables.length);
      for (const call of calls) {
        const given = Object.keys(call.arguments);
        expect(given.length).toBeGreaterThan(0);
        expect(given).toEqual(Object.keys(known).filter((key) => given.includes(key)));
      }
    }
  });

  it("holds out names that training never shows", () => {
    const holds = (name: string, rows: typeof requests): boolean => rows.some(({ call }) => call.includes(`"${name}"`));
    for (const name of reservedNames) expect(holds(name, [...task.train]), name).toBe(false);
    expect(reservedNames.filter((name) => holds(name, [...task.heldout])).length).toBeGreaterThan(10);
  });

  it("words half of the held-out requests in ways that training never shows", () => {
    const spellings = (way: string): string[] => {
      const [whole, choices] = /\[([^\]]*)\]/.exec(way) ?? [];
      if (whole === undefined || choices === undefined) return [way.replace(/\s+/g, " ")];
      return choices.split("|").flatMap((choice) => spellings(way.replace(whole, choice)));
    };
    for (const { ways, unseen } of callables) {
      const seen = new Set(ways.flatMap(spellings));
      expect(unseen.length).toBeGreaterThan(0);
      expect(unseen.flatMap(spellings).filter((way) => seen.has(way))).toEqual([]);
    }
  });

  it("says numbers in words", () => {
    expect([0, 12, 20, 45].map(numberWords)).toEqual(["zero", "twelve", "twenty", "forty five"]);
    expect(() => numberWords(100)).toThrow(RangeError);
  });
});

describe("the quickstart's tokenizer", () => {
  const tokenizer = new Tokenizer(parsed("model/tokenizer.json"), parsed("model/tokenizer_config.json"));
  const tokens = (text: string): string[] => tokenizer.encode(text, { add_special_tokens: false }).tokens;

  it("gives back every request and call, within the context", () => {
    for (const { text, call } of requests.slice(0, 500)) {
      const chat = `<|user|>${text}<|assistant|>${call}<|eos|>`;
      const { ids } = tokenizer.encode(chat);
      expect(tokenizer.decode(ids)).toBe(`<|bos|>${chat}`);
      expect(ids.length).toBeLessThan(contextLength);
    }
  });

  it("gives back any text, byte by byte where it must", () => {
    const text = "Ünïcode  and\n\ttabs, 😀 — 東京 12:05.";
    expect(tokenizer.decode(tokenizer.encode(text, { add_special_tokens: false }).ids)).toBe(text);
  });

  it("cuts a name into the same tokens after a space and after a quotation mark", () => {
    expect(tokens(" Fatima")).toEqual(["Ġ", ...tokens("Fatima")]);
    expect(tokens('"Fatima"')).toEqual(['"', ...tokens("Fatima"), '"']);
  });

  it("learns the most frequent pair first, and joins spaces last", () => {
    const { merges } = trainBpe(["ab ab ab ab abc"], { wordMerges: 2, spaceMerges: 1 });
    expect(merges).toEqual([
      ["a", "b"],
      ["ab", "c"],
      ["Ġ", "ab"],
    ]);
  });
});
