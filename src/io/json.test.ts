import fc from "fast-check";
import { expect, test } from "vitest";
import { JsonNumber, parseExactJson, spelledAs, stringifyExactJson } from "./json.ts";

const written =
  '{"id":2512292042121000001,"cap":30.0,"eps":1e-05,"big":1e+400,"zero":-0,"of":[1,2.50,{"x":[1E3]}],"say":"1.0 \\"2.0\\" number","true":1.5}';

test("numbers are written as they were read", () => {
  const read = parseExactJson(written);
  expect(stringifyExactJson(read)).toBe(written);
  expect(stringifyExactJson(parseExactJson("30.0"))).toBe("30.0");
  expect(read).toMatchObject({ id: new JsonNumber("2512292042121000001"), true: 1.5, say: '1.0 "2.0" number' });
  expect(JSON.stringify({ cap: new JsonNumber("30.0") })).toBe('{"cap":30}');
});

test("a text without such numbers is what JSON.parse makes of it, __proto__ and all", () => {
  const plain = '{"__proto__":{"a":1},"b":[null,true,"x"]}';
  expect(JSON.stringify(parseExactJson(plain))).toBe(plain);
  expect(() => parseExactJson("[1.]")).toThrow(SyntaxError);
});

test("any JSON value comes back", () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }), (value, indent) => {
      const text = JSON.stringify(value, null, indent);
      expect(stringifyExactJson(parseExactJson(text), indent)).toBe(text);
      expect(JSON.stringify(parseExactJson(text))).toBe(JSON.stringify(value));
    }),
  );
});

test("numbers that stay are spelled as another text spells them, and those that change are not", () => {
  const file = parseExactJson('{"cap":30.0,"size":8.0,"list":[1.0,2.0],"gone":3.0}');
  const value = { cap: 30, size: 9, list: [1, 3], more: 4 };
  expect(stringifyExactJson(spelledAs(value, file))).toBe('{"cap":30.0,"size":9,"list":[1.0,3],"more":4}');
});
