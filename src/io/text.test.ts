import { expect, test } from "vitest";
import { TuneError } from "../errors.ts";
import { readJsonObject } from "./json.ts";
import { memoryStorage } from "./memory-storage.ts";
import { decodeText, readText } from "./text.ts";

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof TuneError ? `${error.code} at ${error.at}` : String(error);
};

test("reads text and objects", async () => {
  const storage = memoryStorage({ "a.json": '\uFEFF{"x": "é"}', "list.json": "[1]", "cut.json": '{"x": ' });
  expect(await readText(storage, "a.json")).toBe('{"x": "é"}');
  expect(await readJsonObject(storage, "a.json")).toEqual({ x: "é" });
  expect(await codeOf(readJsonObject(storage, "list.json"))).toBe("malformed-json at list.json");
  expect(await codeOf(readJsonObject(storage, "cut.json"))).toBe("malformed-json at cut.json");
});

test("names the line that is not UTF-8", () => {
  const bytes = new Uint8Array([...new TextEncoder().encode("one\ntwo é\n"), 0x61, 0xff, 0x0a, 0x62]);
  expect(() => decodeText(bytes, "data.txt")).toThrow(/data\.txt, line 3/);
  expect(() => decodeText(new Uint8Array([0x61, 0x0a, 0xc3]), "data.txt")).toThrow(/line 2/);
});
