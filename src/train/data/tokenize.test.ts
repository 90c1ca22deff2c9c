import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { byteLevelTokenizer } from "../../../tests/fixtures/byte-level-tokenizer.ts";
import { TuneError } from "../../errors.ts";
import { loadTokenizer, type TextTokenizer } from "../../io/tokenizer.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import { previewExample } from "./preview.ts";
import { parseDocuments, parseJsonLines, readDataset } from "./read.ts";
import { sequencesOf } from "./store.ts";
import { type TokenizeOptions, tokenizeDataset } from "./tokenize.ts";

const failure = (run: () => unknown): TuneError => {
  try {
    run();
  } catch (error) {
    if (error instanceof TuneError) return error;
    throw error;
  }
  throw new Error("expected a TuneError");
};

const chatml =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const chatTokenizer = (chat_template: string = chatml): TextTokenizer =>
  byteLevelTokenizer({ eos_token: "<|im_end|>", chat_template });

const rows = (...values: unknown[]): ReturnType<typeof parseJsonLines> =>
  parseJsonLines(values.map((value) => JSON.stringify(value)).join("\n"));
const talk = (...contents: string[]): unknown => ({
  messages: contents.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })),
});

/** Previews of all examples, and the warnings as `code: lines`. */
function tokenized(
  dataset: ReturnType<typeof parseJsonLines>,
  tokenizer: TextTokenizer,
  options?: Partial<TokenizeOptions>,
): { previews: string[]; warnings: string[] } {
  const { examples, warnings } = tokenizeDataset(dataset, tokenizer, { maxLength: 1000, ...options });
  return {
    previews: examples.map((example) => previewExample(example, tokenizer)),
    warnings: warnings.map(({ code, lines }) => `${code}: ${lines.join(", ")}`),
  };
}

describe("prompt and completion", () => {
  test("the completion and EOS are trained, the prompt is not", () => {
    const dataset = rows({ prompt: "2+2=", completion: "4" }, { prompt: "é", completion: "😀<|im_end|>" });
    expect(tokenized(dataset, chatTokenizer())).toEqual({
      previews: ["2+2=⟦4<|im_end|>⟧", "é⟦😀<|im_end|>⟧"],
      warnings: [],
    });
    expect(tokenized(dataset, chatTokenizer(), { appendEos: false }).previews[0]).toBe("2+2=⟦4⟧");
    const { examples } = tokenizeDataset(dataset, chatTokenizer(), { maxLength: 10 });
    expect(examples[0]).toEqual({
      inputIds: Int32Array.of(50, 43, 50, 61, 52, 261),
      trained: Uint8Array.of(0, 0, 0, 0, 1, 1),
      line: 1,
    });
  });

  test("where a token spans the border, the border moves to its start and the row is named", () => {
    const dataset = rows({ prompt: "a", completion: "b" }, { prompt: "say he", completion: "llo" });
    expect(tokenized(dataset, chatTokenizer())).toEqual({
      previews: ["a⟦b<|im_end|>⟧", "say ⟦hello<|im_end|>⟧"],
      warnings: ["border-moved: 2"],
    });
  });
});

describe("conversations", () => {
  test("every assistant turn is trained, with its end", () => {
    const dataset = rows(talk("Hi", "Yo", "More?", "No."));
    expect(tokenized(dataset, chatTokenizer())).toEqual({
      previews: [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>\n⟧" +
          "<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n⟦No.<|im_end|>\n⟧",
      ],
      warnings: [],
    });
  });

  test("messages after the last answer are not trained, and tools reach the template", () => {
    const withTools = chatTokenizer(`{% if tools %}{{ tools | tojson }}{% endif %}${chatml}`);
    const value = { ...(talk("Hi", "Yo", "Bye") as object), tools: [{ name: "f" }] };
    expect(tokenized(rows(value), withTools).previews).toEqual([
      '[{"name": "f"}]<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>\n⟧' +
        "<|im_start|>user\nBye<|im_end|>\n",
    ]);
  });

  test("a template that drops thinking from earlier turns leaves those untrained, with a warning", () => {
    const dropping =
      "{% for m in messages %}{{ m.role }}:{{ m.content.split('</think>')[-1] if not loop.last else m.content }}" +
      "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
    const dataset = rows(talk("Hi", "<think>a</think>Yo", "More?", "<think>b</think>No."));
    expect(tokenized(dataset, chatTokenizer(dropping))).toEqual({
      previews: [
        "user:Hi<|im_end|>assistant:Yo<|im_end|>user:More?<|im_end|>assistant:⟦<think>b</think>No.<|im_end|>⟧",
      ],
      warnings: ["earlier-turns-not-trained: 1"],
    });
  });

  test("a generation prompt that answers do not start with is noted", () => {
    const thinking =
      "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}" +
      "{% if add_generation_prompt %}assistant:<think>{% endif %}";
    expect(tokenized(rows(talk("Hi", "Yo")), chatTokenizer(thinking))).toEqual({
      previews: ["user:Hi<|im_end|>assistant:⟦Yo<|im_end|>⟧"],
      warnings: ["generation-prompt-differs: 1"],
    });
  });

  test("a template that never ends a turn is noted, one that rewrites everything is refused", () => {
    const endless = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}";
    const prompted = `${endless}{% if add_generation_prompt %}assistant:{% endif %}`;
    expect(tokenized(rows(talk("Hi", "Yo")), chatTokenizer(prompted))).toEqual({
      previews: ["user:Hi\nassistant:⟦Yo\n⟧"],
      warnings: ["no-end-of-turn: 1"],
    });
    const counting = `{{ messages | length }}${endless}`;
    const error = failure(() => tokenized(rows(talk("Hi", "Yo")), chatTokenizer(counting)));
    expect(error.code).toBe("untrainable-conversation");
    expect(error.message).toContain("line 1: No assistant turn keeps its place");
  });

  test("rows that the template refuses are named together; a missing template is told once", () => {
    const strict = `{% if messages[0].role != 'user' %}{{ raise_exception('Start with user') }}{% endif %}${chatml}`;
    const wrong = { messages: [{ role: "assistant", content: "Yo" }] };
    const error = failure(() => tokenized(rows(talk("Hi", "Yo"), wrong, wrong), chatTokenizer(strict)));
    expect(error.code).toBe("chat-template-failed");
    expect(error.message).toMatch(/line 2: .*Start with user\n {2}line 3: /);
    expect(failure(() => tokenized(rows(wrong), byteLevelTokenizer())).code).toBe("no-chat-template");
  });

  test("law: what is trained is what the assistant said", () => {
    const content = fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }).filter((text) => text.trim() !== "");
    fc.assert(
      fc.property(fc.array(fc.tuple(content, content), { minLength: 1, maxLength: 4 }), (turns) => {
        const tokenizer = chatTokenizer();
        const { examples } = tokenizeDataset(rows(talk(...turns.flat())), tokenizer, { maxLength: 10_000 });
        const example = examples[0];
        const trained = example?.inputIds.filter((_, i) => example.trained[i] === 1) ?? [];
        expect(tokenizer.decode(trained)).toBe(turns.map(([, answer]) => `${answer}<|im_end|>\n`).join(""));
      }),
      { numRuns: 50 },
    );
  });
});

describe("preferences", () => {
  const user = (content: string): object => ({ role: "user", content });
  const assistant = (content: string): object => ({ role: "assistant", content });
  const pairs = (...values: unknown[]): string[][] =>
    tokenizeDataset(rows(...values), chatTokenizer(), { maxLength: 1000 }).examples.map((example) =>
      sequencesOf(example).map((sequence) => previewExample(sequence, chatTokenizer())),
    );
  const turn = (question: string, answer: string): string =>
    `<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n${answer}`;

  test("texts: a prompt and two answers, or what both begin with", () => {
    const expected = [["The sky is⟦ blue<|im_end|>⟧", "The sky is⟦ green<|im_end|>⟧"]];
    expect(pairs({ prompt: "The sky is", chosen: " blue", rejected: " green" })).toEqual(expected);
    expect(pairs({ chosen: "The sky is blue", rejected: "The sky is green" })).toEqual(expected);
  });

  test("conversations: as TRL's, with the prompt apart, in front, or as text", () => {
    const expected = [[turn("Sky?", "⟦Blue.<|im_end|>\n⟧"), turn("Sky?", "⟦Green.<|im_end|>\n⟧")]];
    const whole = { chosen: [user("Sky?"), assistant("Blue.")], rejected: [user("Sky?"), assistant("Green.")] };
    const answers = { chosen: [assistant("Blue.")], rejected: [assistant("Green.")] };
    expect(pairs({ prompt: [user("Sky?")], ...answers })).toEqual(expected);
    expect(pairs(whole)).toEqual(expected);
    expect(pairs({ prompt: "Sky?", ...whole })).toEqual(expected);
    expect(pairs({ prompt: "Sky?", ...answers })).toEqual(expected);
    const [[chosen] = []] = pairs({ ...answers, prompt: [user("Hi"), assistant("Yo"), user("Sky?")] });
    expect(chosen).toBe(`${turn("Hi", "Yo<|im_end|>")}\n${turn("Sky?", "⟦Blue.<|im_end|>\n⟧")}`); // the prompt's own is not
  });

  test("equal answers are left out, long ones are cut, and those with nothing left dropped", () => {
    const dataset = rows(
      { prompt: "ab", chosen: "cd", rejected: "cd" },
      { prompt: "ab", chosen: "cdefg", rejected: "x" },
      { prompt: "abcdef", chosen: "g", rejected: "h" },
    );
    const { examples, warnings } = tokenizeDataset(dataset, chatTokenizer(), { maxLength: 5, tooLong: "split" });
    expect(examples.map(({ line, against }) => [line, against?.length])).toEqual([[2, 1]]);
    expect(warnings.map(({ code, lines }) => `${code}: ${lines.join(", ")}`)).toEqual([
      "no-preference: 1",
      "truncated: 2, 3",
      "dropped: 3",
    ]);
  });

  test("rows whose parts do not go together are named", () => {
    const list = [user("Sky?"), assistant("Blue.")];
    const wrong = [
      [{ chosen: "a", rejected: list }, '"rejected" is a list'],
      [{ chosen: list, rejected: [user("x")] }, 'no message has the role "assistant"'],
      [{ prompt: 3, chosen: "a", rejected: "b" }, '"prompt" is a number'],
      [{ prompt: {}, chosen: list, rejected: list }, '"prompt" is an object, but "chosen" is a list'],
      [{ prompt: "a", chosen: "b", rejected: " " }, '"rejected" is empty'],
    ] as const;
    const { message } = failure(() => rows(...wrong.map(([value]) => value)));
    for (const [i, [, what]] of wrong.entries()) expect(message).toMatch(new RegExp(`line ${i + 1}: .*${what}`));
  });
});

describe("length", () => {
  const dataset = rows(
    { prompt: "ab", completion: "cd" },
    { prompt: "ab", completion: "cdefg" },
    { prompt: "abcdefghi", completion: "j" },
  );

  test("long rows are cut, those without a label left are dropped, and both are told", () => {
    expect(tokenized(dataset, chatTokenizer(), { maxLength: 5 })).toEqual({
      previews: ["ab⟦cd<|im_end|>⟧", "ab⟦cde⟧"],
      warnings: ["truncated: 2, 3", "dropped: 3"],
    });
  });

  test("or refused with their lines", () => {
    const error = failure(() => tokenized(dataset, chatTokenizer(), { maxLength: 5, tooLong: "error" }));
    expect(error.code).toBe("sequence-too-long");
    expect(error.message).toContain("2 rows are longer than 5 tokens (the longest has 11, line 3)");
    expect(error.at).toBe("data, lines 2, 3");
  });

  test("or split into consecutive sequences that lose no token", () => {
    const text = parseDocuments("abcdefgh");
    const options = { maxLength: 3, tooLong: "split" } as const;
    expect(tokenized(text, chatTokenizer(), options).previews).toEqual(["a⟦bc⟧", "d⟦ef⟧", "g⟦h<|im_end|>⟧"]);
  });

  test("nothing left to train, and a maximum without room, are errors", () => {
    expect(failure(() => tokenized(dataset, chatTokenizer(), { maxLength: 2 })).code).toBe("nothing-to-train");
    expect(failure(() => tokenized(dataset, chatTokenizer(), { maxLength: 1 })).code).toBe("bad-option");
  });
});

const shared = fileURLToPath(new URL("../../../../shared", import.meta.url));
describe.skipIf(!existsSync(shared))("real tokenizers and data (skipped where ../shared is absent)", () => {
  test("stories260k: BOS is not trained, a dropped trailing space moves nothing", async () => {
    const tokenizer = await loadTokenizer(nodeStorage, `${shared}/models/stories260k`);
    const text = tokenized(parseDocuments("Once upon a time"), tokenizer);
    expect(text).toEqual({ previews: ["<s>⟦ Once upon a time</s>⟧"], warnings: [] });
    const pair = rows({ prompt: "Once upon ", completion: "a time" }, { prompt: "Say é", completion: " 😀" });
    expect(tokenized(pair, tokenizer)).toEqual({
      previews: ["<s> Once upon⟦ a time</s>⟧", "<s> Say é⟦ 😀</s>⟧"],
      warnings: [],
    });
  });

  test("P3 shards on characters: every completion is trained whole", async () => {
    const tokenizer = await loadTokenizer(nodeStorage, `${shared}/models/babyllama-tok105`);
    const dataset = await readDataset(nodeStorage, `${shared}/data/instructions/p3-shards/quarel_choose_between.jsonl`);
    const { examples, warnings } = tokenizeDataset(dataset, tokenizer, { maxLength: 2000 });
    expect([examples.length, warnings]).toEqual([200, []]);
    for (const [i, example] of examples.entries()) {
      const trained = example.inputIds.filter((_, at) => example.trained[at] === 1);
      const completion = String(dataset.rows[i]?.value["completion"]);
      expect(tokenizer.decode(trained, { skipSpecialTokens: true })).toBe(completion);
    }
  });
});
