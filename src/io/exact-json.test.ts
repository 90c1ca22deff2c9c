import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ExactNumber, parseExactJson, plainNumbers, spelledAs, writeExactJson } from "./exact-json.ts";

describe("JSON whose numbers keep their spelling", () => {
  it.each([
    "2512292042121000001",
    "20.0",
    "1e-05",
    "-0",
    "-0.0",
    "1E5",
    "1.50",
    "123456789012345678901234567890",
    "0.1",
    "9007199254740993",
    "1e400",
  ])("%s", (number) => {
    for (const text of [number, `{"a":[${number},1,"20.0"],"b":${number}}`]) {
      expect(writeExactJson(parseExactJson(text))).toBe(text);
      expect(JSON.parse(JSON.stringify(parseExactJson(text)))).toEqual(JSON.parse(JSON.stringify(JSON.parse(text))));
    }
  });

  it("is JSON.parse on everything else", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), fc.nat(3), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(JSON.stringify(parseExactJson(text))).toBe(JSON.stringify(JSON.parse(text)));
        const exact = `[${text},20.0]`;
        expect(JSON.stringify(parseExactJson(exact))).toBe(JSON.stringify(JSON.parse(exact)));
        expect(JSON.stringify(JSON.parse(writeExactJson(value, indent)))).toBe(JSON.stringify(JSON.parse(text)));
      }),
    );
    expect(parseExactJson('{"__proto__": 1.0}')).toHaveProperty(["__proto__"]);
    expect(writeExactJson({ a: [1, { b: new ExactNumber("30.0") }], c: [], d: {} }, 2)).toBe(
      '{\n  "a": [\n    1,\n    {\n      "b": 30.0\n    }\n  ],\n  "c": [],\n  "d": {}\n}',
    );
  });

  it.each(['{"a": 1.0', "[1.0,]", '{"a" 1.0}', "01.0", "[1.0] 2", '"\n1.0"', "{1.0: 2}", "[1.0, nul]", "[1.]"])(
    "refuses %j as JSON.parse does",
    (text) => expect(() => parseExactJson(text)).toThrow(SyntaxError),
  );

  it("bounds the depth", () => {
    const nested = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
    expect(() => parseExactJson(nested(100_000))).toThrow("deeper than 512 levels");
    expect(() => parseExactJson(`[${"[],".repeat(1000)}${nested(500)}]`)).not.toThrow();
  });

  it("gives plain numbers to those who compute with them", () => {
    expect(plainNumbers(parseExactJson('{"a": [20.0, 1e-05, 9007199254740993]}'))).toEqual({
      a: [20, 1e-5, new ExactNumber("9007199254740993")],
    });
  });
});

it("numbers that stay are spelt as another text spells them, and those that change are not", () => {
  const file = parseExactJson('{"cap":30.0,"size":8.0,"list":[1.0,2.0],"gone":3.0}');
  const value = { cap: 30, size: 9, list: [1, 3], more: 4 };
  expect(writeExactJson(spelledAs(value, file))).toBe('{"cap":30.0,"size":9,"list":[1.0,3],"more":4}');
});
