import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseExactJson as parseExactData } from "../src/io/exact-json.ts";
import { deepest, parseExactJson, parseJson, parseJsonObject, readJsonObject } from "../src/io/json.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import type { Storage } from "../src/io/storage.ts";
import { readText } from "../src/io/text.ts";
import { readDataset } from "../src/train/data/index.ts";
import { root } from "./helpers/root.ts";

/* What comes from strangers ends soon, in little memory, and with a code: depth, length and repetition are bounded. */

const nested = (levels: number): string => `${'{"a":['.repeat(levels / 2)}1${"]}".repeat(levels / 2)}`;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("JSON", () => {
  const readers: Readonly<Record<string, (text: string) => unknown>> = {
    parseJson,
    "parseExactJson of configurations": parseExactJson,
    "parseExactJson of data": parseExactData,
    parseJsonObject: (text) => parseJsonObject(bytes(text), "malformed-json", "a.json"),
  };
  it.each(Object.entries(readers))("of bounded depth: %s", (_name, read) => {
    expect(() => read(nested(deepest))).not.toThrow();
    expect(() => read(nested(deepest + 2))).toThrow(`deeper than ${deepest} levels`);
    expect(() => read(nested(2e6))).toThrow(`deeper than ${deepest} levels`);
    expect(() => read(`{"a": "${"[".repeat(2000)}"}`)).not.toThrow();
    expect(() => read(`{"a": [${"[],".repeat(2000)}[]]}`)).not.toThrow();
  });

  it("of files is refused with a code", async () => {
    const storage = memoryStorage({ "a.json": bytes(nested(1e5)), "d.jsonl": bytes(`${nested(1e5)}\n`) });
    await expect(readJsonObject(storage, "a.json")).rejects.toMatchObject({ code: "malformed-json" });
    await expect(readDataset(storage, "d.jsonl")).rejects.toMatchObject({
      code: "malformed-data",
      message: expect.stringContaining("deeper than"),
    });
  });

  it("names no prototype: such keys are keys", async () => {
    const text = '{"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}}';
    for (const read of Object.values(readers)) {
      const value = read(text) as Record<string, unknown>; // an object
      expect(Object.keys({ ...value }).sort()).toEqual(["__proto__", "constructor"]);
      expect(Object.getPrototypeOf({ ...value })).toBe(Object.prototype);
      expect("polluted" in value).toBe(false);
    }
    expect("polluted" in {}).toBe(false);
  });

  it("with a key twice is refused where formats are strict, and the last counts elsewhere, as in Python", async () => {
    const text = '{"a": 1, "b": {"a": 1}, "a": 2}';
    expect(() => parseJsonObject(bytes(text), "malformed-json", "a")).toThrow("more than once");
    expect(await readJsonObject(memoryStorage({ a: bytes(text) }), "a")).toEqual({ a: 2, b: { a: 1 } });
  });

  it("is parsed in one place", () => {
    const allowed: Readonly<Record<string, string>> = {
      "io/json.ts": "is that place",
      "io/exact-json.ts": "a string between quotes, whose end it has found",
      "graph/tokens.ts": "a string between quotes, whose end it has found",
      "compress/work-folder.ts": "its own text, to compare with what was written",
      "cli/main.ts": "the package.json that it is published with",
    };
    const found = sources().filter((name) => /JSON\.parse\(|\.json\(\)/.test(source(name)));
    expect(found.filter((name) => allowed[name] === undefined)).toEqual([]);
    expect(Object.keys(allowed).filter((name) => !found.includes(name))).toEqual([]);
  });
});

function sources(): string[] {
  return readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter(
    (name) => name.endsWith(".ts") && !/\.(test|browser|conformance)\.ts$|^kernels\/assembly/.test(name),
  );
}

function source(name: string): string {
  return readFileSync(join(root, "src", name), "utf8").replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
}

describe("texts", () => {
  it("larger than a string are refused by name before they are read", async () => {
    const storage: Storage = {
      ...memoryStorage(),
      sizeBytes: async () => 2 ** 30,
      read: async () => {
        throw new Error("it was read");
      },
    };
    await expect(readText(storage, "a.txt")).rejects.toMatchObject({ code: "file-too-large", at: "a.txt" });
    await expect(readJsonObject(storage, "a.json")).rejects.toMatchObject({ code: "file-too-large" });
    for (const name of ["d.jsonl", "d.csv", "d.txt", "d.json"])
      await expect(readDataset(storage, name), name).rejects.toMatchObject({ code: "file-too-large" });
  });
});
