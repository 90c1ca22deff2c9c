import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { describe, expect, it } from "vitest";
import { applyConfig } from "../src/cli/config.ts";
import { parseYaml } from "../src/cli/yaml.ts";
import { parseExactJson } from "../src/io/exact-json.ts";
import { deepest, type JsonObject, parseJson, parseJsonObject, readJsonObject } from "../src/io/json.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { targetedByPeft } from "../src/io/peft-targets.ts";
import type { Storage } from "../src/io/storage.ts";
import { readText } from "../src/io/text.ts";
import { createTokenizer } from "../src/io/tokenizer.ts";
import { checkPatterns, chooseMethod, chooseModules, configAt, parseTargets } from "../src/methods/index.ts";
import { readDataset } from "../src/train/data/index.ts";
import { byteLevelFile } from "./fixtures/byte-level-tokenizer.ts";
import { root } from "./helpers/root.ts";

/* What comes from strangers ends soon, in little memory, and with a code: depth, length and repetition are bounded. */

const nested = (levels: number): string => `${'{"a":['.repeat(levels / 2)}1${"]}".repeat(levels / 2)}`;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("JSON", () => {
  const readers: Readonly<Record<string, (text: string) => unknown>> = {
    parseJson,
    parseExactJson,
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
      "train/fingerprint.ts": "its own text, to compare with what was written",
      "io/sealed.ts": "its own text, as it is written",
      "federated/signed.ts": "its own text, as others will read it",
      "federated/engines/memory.ts": "a copy of its own",
      "federated/engines/nats.ts": "its own text, as others will read it",
      "cli/program.ts": "the package.json that it is published with",
    };
    const found = sources().filter((name) => /JSON\.parse\(|\.json\(\)/.test(source(name)));
    expect(found.filter((name) => allowed[name] === undefined)).toEqual([]);
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

/** A tokenizer that splits texts by an expression, somewhere in its file. */
function splitting(part: "normalizer" | "pre_tokenizer" | "decoder", Regex: string): () => unknown {
  const of = {
    normalizer: { type: "Replace", pattern: { Regex }, content: "" },
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Split", pattern: { Regex }, behavior: "Isolated" }] },
    decoder: { type: "Replace", pattern: { Regex }, content: "" },
  }[part];
  return () => createTokenizer({ tokenizer: { ...byteLevelFile(), [part]: of } });
}

describe("regular expressions", () => {
  it.each(["normalizer", "pre_tokenizer", "decoder"] as const)("of a tokenizer's %s cannot take forever", (part) => {
    for (const slow of ["(?:a+)+$", "(?:\\w|\\w\\w)*!", ".*.*.*x"]) {
      const start = performance.now();
      expect(splitting(part, slow), slow).toThrow(expect.objectContaining({ code: "malformed-tokenizer" }));
      expect(splitting(part, slow), slow).toThrow("might take very long");
      expect(performance.now() - start).toBeLessThan(2000);
    }
    expect(splitting(part, "\\s+(?!\\S)|\\s+")).not.toThrow();
  });

  it.each(["target_modules", "exclude_modules", "layers_pattern"])(
    "of an adapter's %s end soon, or are refused by name",
    (key) => {
      const config = (value: string): JsonObject => ({
        target_modules: ["q_proj"],
        layers_to_transform: [0],
        [key]: value,
      });
      const start = performance.now();
      const asked = targetedByPeft(config("(([a-z_.0-9])+\\.?)+!"), "lm_head", "a");
      expect(asked?.(`model.layers.0.${"a".repeat(200)}.q_proj`)).toBe(key === "exclude_modules");
      expect(performance.now() - start).toBeLessThan(2000);
      for (const [bad, why] of [
        ["(a)\\1", "back to a group"],
        ["a++", "possessive"],
        ["[", "no regular expression"],
      ] as const) {
        expect(() => targetedByPeft(config(bad), "lm_head", "a"), bad).toThrow(
          expect.objectContaining({ code: "peft-bad-config", message: expect.stringContaining(why) }),
        );
        expect(() => targetedByPeft(config(bad), "lm_head", "a"), bad).toThrow(key);
      }
    },
  );

  it("of patterns by module and of targets end soon", () => {
    const modules = [`model.layers.0.${"q".repeat(200)}`, "model.layers.0.v_proj"];
    const start = performance.now();
    const choice = chooseMethod("lora", {}, { rank: { "(([a-z_.0-9])+\\.?)+!": 4 } });
    expect(configAt(choice, modules[0] ?? "")["rank"]).toBe(8);
    expect(() => checkPatterns(choice, modules)).toThrow(expect.objectContaining({ code: "unknown-target-modules" }));
    expect(() => chooseModules(parseTargets("/(([a-z_.0-9])+\\.?)+!/"), modules, "lm_head")).toThrow("No linear layer");
    expect(performance.now() - start).toBeLessThan(2000);
    expect(() => parseTargets("/(a)\\1/")).toThrow(expect.objectContaining({ code: "bad-target-modules" }));
  });

  it("are made of texts in few places", () => {
    const allowed: Readonly<Record<string, string>> = {
      "pattern.ts": "checks that an expression is one, and matches single characters by it",
      "regexp-shape.ts": "asks which characters two classes share",
      "methods/targets.ts": "carries what pattern.ts has compiled",
      "methods/sublayers.ts": "joins expressions of our own",
      "export/adapterhub-files.ts": "an expression of our own",
      "train/data/read.ts": "a text, escaped",
      "cli/terminal.ts": "marks of our own",
      "io/json.ts": "a mark of our own",
      "runtime/memory-limits.ts": "names of our own",
      "io/left-names.ts": "names of our own",
      "models/harmless.ts": "a module's name of our own",
      ...Object.fromEntries(["filters", "lex", "methods"].map((name) => [`io/jinja/${name}.ts`, "white space"])),
    };
    const found = sources().filter((name) => /new RegExp\(/.test(source(name)));
    expect(found.filter((name) => allowed[name] === undefined)).toEqual([]);
  });
});

describe("files of options", () => {
  const levels = Array.from({ length: 12 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}*a${i}]`);
  it.each([
    ["aliases of aliases", `a0: &a0 [x]\n${levels.join("\n")}\n`],
    ["brackets without end", "[".repeat(100_000)],
    ["fewer brackets, which ended the process", "[".repeat(50_000)],
    ["objects in objects", "{a: ".repeat(50_000)],
    ["lists in lists on a line", "- ".repeat(100_000)],
    ["keys in keys on a line", "? ".repeat(100_000)],
    ["levels by indentation", Array.from({ length: 1000 }, (_, i) => `${" ".repeat(i)}a:`).join("\n")],
    ["anchors without end", "&a ".repeat(100_000)],
    ["keys without end", Array.from({ length: 80_000 }, (_, i) => `a${i}: 1`).join("\n")],
    ["anchors up to the bound", "&a ".repeat(4000)],
    ["keys up to the bound", Array.from({ length: 1300 }, (_, i) => `a${i}: 1`).join("\n")],
    ["a file that is too long", `#${"x".repeat(2 ** 20)}\n`],
  ])("%s are refused soon", async (_name, content) => {
    const path = join(mkdtempSync(join(tmpdir(), "scion-options-")), "options.yaml");
    writeFileSync(path, content);
    const start = process.cpuUsage();
    await expect(applyConfig(new Command("tune").option("--data <file>"), path)).rejects.toMatchObject({
      code: expect.stringMatching(/^(malformed-config|bad-option)$/),
    });
    expect(process.cpuUsage(start).user / 1e6).toBeLessThan(3);
  });

  it("may hold brackets in texts and comments, and nest as options do", async () => {
    const many = "[".repeat(1000);
    const text = `a: "${many}"\nb: x${many}\n# ${many}\nc: { d: [1, 2] }\ne:\n  - f: 1\n  - - 2\n`;
    expect(await parseYaml(text)).toEqual({ a: many, b: `x${many}`, c: { d: [1, 2] }, e: [{ f: 1 }, [2]] });
    expect(await parseYaml('{"a": [1, {"b": null}]}')).toEqual({ a: [1, { b: null }] });
    await expect(parseYaml(nested(66))).rejects.toThrow("deeper than 64 levels");
    expect(await parseYaml(nested(64))).toEqual(parseJson(nested(64)));
  });
});

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
