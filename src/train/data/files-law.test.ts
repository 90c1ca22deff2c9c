import { parquetWriteBuffer } from "hyparquet-writer";
import { describe, expect, it } from "vitest";
import { compressors } from "../../../tests/helpers/compress.ts";
import { TuneError } from "../../errors.ts";
import { memoryStorage } from "../../io/memory-storage.ts";
import { compressedEndings } from "./compressed.ts";
import type { DataRow } from "./formats.ts";
import { piecesOf, streamedEndings } from "./pieces.ts";
import { dataEndings, readDataset } from "./read.ts";

/*
 * A law: every kind of data file has samples here, tiny ones too, and gives the same rows whole and in pieces, compressed in
 * every way and not at all.
 */

/** What a file holds, and what is read of it: the lines and values of its rows, or the code that it is refused with. */
interface Sample {
  readonly what: string;
  readonly content: string | Uint8Array;
  readonly read: readonly (readonly [line: number, value: object])[] | string;
}

const bytesOf = (content: string | Uint8Array): Uint8Array =>
  typeof content === "string" ? new TextEncoder().encode(content) : content;

const pair = (prompt: string, completion: string): object => ({ prompt, completion });
const one = '{"text": "a, b; c\\td"}';
const oneRow: Sample["read"] = [[1, { text: "a, b; c\td" }]];
const lines: readonly Sample[] = [
  { what: "one row", content: one, read: oneRow },
  { what: "one row and a line break", content: `${one}\n`, read: oneRow },
  { what: "CRLF", content: `${one}\r\n{"text": "e"}\r\n`, read: [...oneRow, [2, { text: "e" }]] },
  { what: "a byte order mark", content: `\uFEFF${one}`, read: oneRow },
  {
    what: "blank lines",
    content: `\n \r\n\t\n${one}\n\u2003\n\n{"text": "e"}`,
    read: [
      [4, { text: "a, b; c\td" }],
      [7, { text: "e" }],
    ],
  },
  {
    what: "quotes and line breaks in texts",
    content: '{"text": "\\"a\\"\\nb\u2028c"}',
    read: [[1, { text: '"a"\nb\u2028c' }]],
  },
  { what: "nothing", content: "", read: "empty-data" },
  { what: "nothing but white space", content: "\uFEFF\r\n \n", read: "empty-data" },
  { what: "a row without keys", content: "{}", read: "unknown-data-format" },
  { what: "a row that is cut short", content: '{"text": "a"', read: "malformed-data" },
];
const list: readonly Sample[] = [
  { what: "a list of one", content: `[${one}]`, read: oneRow },
  {
    what: "a list over lines",
    content: `\uFEFF[\r\n${one},\r\n{"text": "e"}\r\n]\r\n`,
    read: [...oneRow, [2, { text: "e" }]],
  },
  { what: "a list of none", content: "[]", read: "empty-data" },
];

/** What stands between fields, `_` here, changes nothing else. */
const tables = (separator: string): readonly Sample[] =>
  [
    { what: "one row", content: "prompt_completion\na_b\n", read: [[2, pair("a", "b")]] },
    { what: "one row without a line break", content: "prompt_completion\na_b", read: [[2, pair("a", "b")]] },
    { what: "one column", content: "text\na\n", read: [[2, { text: "a" }]] },
    { what: "only a header", content: "prompt_completion\n", read: "empty-data" },
    { what: "nothing", content: "", read: "empty-data" },
    { what: "nothing but blank lines", content: "\uFEFF\r\n\r\n", read: "empty-data" },
    { what: "CRLF", content: "prompt_completion\r\na_b\r\n", read: [[2, pair("a", "b")]] },
    {
      what: "CR alone",
      content: "prompt_completion\ra_b\rc_d\r",
      read: [
        [2, pair("a", "b")],
        [3, pair("c", "d")],
      ],
    },
    {
      what: "line ends that differ",
      content: "prompt_completion\na_b\r\nc_d\n\r\ne_f",
      read: [
        [2, pair("a", "b")],
        [3, pair("c", "d")],
        [5, pair("e", "f")],
      ],
    },
    { what: "a byte order mark", content: '\uFEFF"prompt"_completion\na_b\n', read: [[2, pair("a", "b")]] },
    {
      what: "quotes",
      content: 'prompt_completion\n"a ""b""\r\nc_d"_"e"\r\nf_"g\r"\r\n',
      read: [
        [2, pair(`a "b"\r\nc${separator}d`, "e")],
        [4, pair("f", "g\r")],
      ],
    },
    { what: "a quote that stays open", content: 'prompt_completion\n"a_b\n', read: "malformed-data" },
    { what: "a row that is too long", content: "prompt_completion\na_b_c\n", read: "malformed-data" },
  ].map((sample) => ({ ...sample, content: sample.content.replaceAll("_", separator) }) as Sample); // its pairs are tuples

/** Texts that hold what separates fields elsewhere, which is no separator here. */
const others = (separator: string): readonly Sample[] => {
  const rest = [",", "\t", ";", "|"].filter((other) => other !== separator).join("");
  const text = `a${rest} b${rest} c`;
  const large = Array.from({ length: 50 }, (_, i) => [i + 2, pair(text.repeat(9000 + i), `${text}${i}`)] as const);
  return [
    {
      what: "a text with other separators",
      content: `prompt${separator}completion\n${text}${separator}b\n`,
      read: [[2, pair(text, "b")]],
    },
    {
      what: "more than a piece",
      content: ["prompt_completion", ...large.map(([, row]) => Object.values(row).join("_"))]
        .join("\n")
        .replaceAll("_", separator),
      read: large,
    },
  ];
};

const parquet = (columns: Readonly<Record<string, readonly string[]>>, rowGroupSize = 1000): Uint8Array =>
  new Uint8Array(
    parquetWriteBuffer({
      columnData: Object.entries(columns).map(([name, data]) => ({ name, data: [...data], type: "STRING" as const })),
      rowGroupSize,
    }),
  );

const samples: Readonly<Record<string, readonly Sample[]>> = {
  jsonl: lines,
  ndjson: lines,
  json: [...lines, ...list],
  csv: [
    ...[",", ";", "|", "\t"].flatMap((separator) => [
      ...tables(separator),
      ...others(separator).slice(0, separator === "," ? 2 : 1),
    ]),
    {
      what: "one column with other separators",
      content: "text\na; b; c\nd|e\n",
      read: [
        [2, { text: "a; b; c" }],
        [3, { text: "d|e" }],
      ],
    },
    { what: "one column with commas in quotes", content: 'text\n"a, b"\n', read: [[2, { text: "a, b" }]] },
  ],
  tsv: [
    ...tables("\t"),
    ...others("\t"),
    { what: "one column with other separators", content: "text\na, b, c\n", read: [[2, { text: "a, b, c" }]] },
    { what: "a header with a comma", content: "text\ta,b,c,d\nx\ty\n", read: [[2, { text: "x", "a,b,c,d": "y" }]] },
  ],
  parquet: [
    { what: "one row", content: parquet({ text: ['a, "b"\r\n'] }), read: [[1, { text: 'a, "b"\r\n' }]] },
    { what: "two columns", content: parquet({ prompt: ["a"], completion: ["b"] }), read: [[1, pair("a", "b")]] },
    {
      what: "several row groups",
      content: parquet({ text: ["a", "b", "c"] }, 2),
      read: [
        [1, { text: "a" }],
        [2, { text: "b" }],
        [3, { text: "c" }],
      ],
    },
    { what: "no row", content: parquet({ text: [] }), read: "empty-data" },
    { what: "nothing", content: "", read: "malformed-data" },
  ],
  txt: [
    { what: "one text", content: "a, b", read: [[1, { text: "a, b" }]] },
    {
      what: "texts, CRLF, a byte order mark",
      content: '\uFEFF\r\na\r\nb\r\n\r\n"c\r\n',
      read: [
        [2, { text: "a\nb" }],
        [5, { text: '"c' }],
      ],
    },
    { what: "nothing", content: "", read: "empty-data" },
    { what: "nothing but white space", content: "\n \r\n", read: "empty-data" },
  ],
};

/** What reading gives, or the code of its error. */
async function outcome(read: () => Promise<readonly DataRow[]>): Promise<unknown> {
  try {
    return (await read()).map(({ line, value }) => [line, value]);
  } catch (error) {
    if (error instanceof TuneError) return error.code;
    throw error;
  }
}

it("every kind of data file has samples, and every compression a writer", () => {
  expect(Object.keys(samples).sort()).toEqual([...dataEndings].sort());
  expect(dataEndings).toEqual(expect.arrayContaining([...streamedEndings.keys()]));
  expect(Object.keys(compressors).sort()).toEqual([...compressedEndings].sort());
  for (const [ending, own] of Object.entries(samples)) expect(own.length, ending).toBeGreaterThan(3);
});

describe.each(Object.entries(samples))(".%s", (ending, own) => {
  it.each(own)("$what", async ({ content, read }) => {
    const bytes = bytesOf(content);
    const files = { [`d.${ending}`]: bytes };
    for (const [outer, compress] of Object.entries(compressors)) files[`d.${ending}.${outer}`] = compress(bytes);
    const storage = memoryStorage(files);
    for (const path of Object.keys(files)) {
      const whole = await outcome(async () => (await readDataset(storage, path)).rows);
      if (ending === "parquet" && path !== `d.${ending}`) {
        expect(whole, path).toBe("unknown-data-file");
        expect(piecesOf(storage, { path }), path).toBeUndefined();
        continue;
      }
      expect(whole, path).toEqual(read);
      const pieces = piecesOf(storage, { path });
      expect(pieces !== undefined, path).toBe(streamedEndings.has(ending));
      if (pieces === undefined) continue;
      let problems = 0;
      const inPieces = await outcome(async () => {
        const rows: DataRow[] = [];
        for await (const piece of pieces) {
          rows.push(...piece.rows);
          problems += piece.problems.length;
        }
        return rows;
      });
      if (typeof read !== "string") expect([inPieces, problems], path).toEqual([read, 0]);
      else if (read === "empty-data") expect([inPieces, problems], path).toEqual([[], 0]);
      else if (read === "malformed-data") expect(inPieces === read || problems > 0, path).toBe(true);
    }
  });
});
