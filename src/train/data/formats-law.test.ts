import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { memoryStorage } from "../../io/memory-storage.ts";
import { loadTokenizer, type TextTokenizer } from "../../io/tokenizer.ts";
import { nodeStorage } from "../../runtime/node-storage.ts";
import {
  type DataSource,
  dataFormats,
  previewExample,
  readDataset,
  streamDataset,
  type TokenizedExample,
  tokenizeDataset,
} from "./index.ts";

/*
 * A law: every format of rows has samples here, with what of them is trained, and gives the same from a file, from memory,
 * from an async iterable, whole and streamed.
 */

const say = (user: string, assistant: string): readonly object[] => [
  { role: "user", content: user },
  { role: "assistant", content: assistant },
];

/** By the format's name: rows, and for each the texts that are trained, without what ends them. */
const samples: Readonly<Record<string, readonly (readonly [row: object, trained: readonly string[]])[]>> = {
  messages: [
    [{ messages: [...say("a", " one"), ...say("b", " two")] }, [" one", " two"]],
    [{ messages: [...say("a", " one"), { role: "user", content: "b" }] }, [" one"]],
  ],
  "prompt/completion": [
    [{ prompt: "the sky is", completion: " blue" }, [" blue"]],
    [{ prompt: say("a", " one").slice(0, 1), completion: say("a", " one").slice(1) }, [" one"]],
  ],
  "question/answer": [[{ question: "2 + 2 =", answer: " 4" }, [" 4"]]],
  text: [[{ text: "the sky is blue" }, ["the sky is blue"]]],
  alpaca: [[{ instruction: "add", input: "1 2", output: " 3" }, [" 3"]]],
  sharegpt: [
    [
      {
        conversations: [
          { from: "human", value: "a" },
          { from: "gpt", value: " one" },
        ],
      },
      [" one"],
    ],
  ],
  preference: [[{ prompt: "the sky is", chosen: " blue", rejected: " green" }, [" blue"]]],
};

let tokenizer: TextTokenizer;
beforeAll(async () => {
  const own = await loadTokenizer(
    nodeStorage,
    fileURLToPath(new URL("../../../assets/quickstart/model", import.meta.url)),
  );
  const template =
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  tokenizer = { ...own, encode: own.encode.bind(own), chatTemplates: new Map([["default", template]]) };
});

const sources = (name: string, rows: readonly object[]): readonly DataSource[] => {
  async function* slowly(): AsyncGenerator<object> {
    yield* rows;
  }
  return [{ path: `${name}.jsonl` }, { rows }, { rows: slowly() }];
};

it("every format has samples", () => {
  expect(Object.keys(samples).sort()).toEqual(dataFormats.map(({ name }) => name).sort());
});

describe.each(Object.entries(samples))("rows of %s", (name, own) => {
  const rows = own.map(([row]) => row);
  const file = rows.map((row) => JSON.stringify(row)).join("\n");
  const expected = own.map(([, trained]) => trained);
  const trainedIn = (preview: string): readonly string[] =>
    [...preview.matchAll(/⟦([^⟧]*)⟧/g)].map(([, text = ""]) =>
      text.replaceAll(tokenizer.specialTokens["eos_token"] ?? "", ""),
    );

  it.each([0, 1, 2])("are learnt as they should, whole and streamed (source %i)", async (i) => {
    const storage = memoryStorage({ [`${name}.jsonl`]: file });
    const dataset = await readDataset(storage, sources(name, rows)[i] as DataSource);
    expect(dataset.format.name).toBe(name);
    const { examples } = tokenizeDataset(dataset, tokenizer, { maxLength: 99 });
    const preview = ({ against: _rejected, ...own }: TokenizedExample): string => previewExample(own, tokenizer);
    expect(examples.map((example) => trainedIn(preview(example)))).toEqual(expected);
    const given = sources(name, rows)[i] as DataSource;
    const options = { tokenizer, maxLength: 99, validation: 0, seed: 0, cache: "cache" };
    const { store } = await streamDataset(storage, [given], options);
    expect(await store.at(examples.map((_, j) => j))).toEqual(examples);
  });
});
