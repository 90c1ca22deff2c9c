import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compilePattern } from "./pattern.ts";

/** Whether JavaScript's own matcher matches all of a name. */
const native = (source: string, name: string): boolean => new RegExp(`^(?:${source})$`).test(name);

describe("patterns of modules", () => {
  const piece: fc.Arbitrary<string> = fc.letrec((tie) => ({
    any: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom("a", "b", ".", "\\.", "[ab]", "[^a]", "\\w", "\\d", "^", "$", "\\b", "\\B"),
      fc.tuple(tie("any"), tie("any")).map((parts) => parts.join("")),
      fc.tuple(tie("any"), tie("any")).map(([one, other]) => `(?:${String(one)}|${String(other)})`),
      fc
        .tuple(tie("any"), fc.constantFrom("*", "+", "?", "{2}", "{1,3}", "*?", "{2,}"))
        .map(([of, times]) => `(?:${String(of)})${times}`),
      fc.tuple(fc.constantFrom("?=", "?!", "?<=", "?<!"), tie("any")).map(([look, of]) => `(${look}${String(of)})`),
    ),
  })).any as fc.Arbitrary<string>; // made of strings

  it("match what JavaScript matches", () => {
    fc.assert(
      fc.property(piece, fc.string({ unit: fc.constantFrom("a", "b", "1", "."), maxLength: 8 }), (source, name) => {
        expect(compilePattern(source).matches(name), `${source} ${name}`).toBe(native(source, name));
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    ["(?P<kind>q|v)_proj", "q_proj", true],
    ["model\\.\\w+\\Z", "model.q_proj", true],
    ["\\Amodel", "model", true],
    ["(?i)MODEL", "model", true],
    ["(?!.*visual).*(?:q_proj|v_proj)", "model.visual.q_proj", false],
    ["(?!.*visual).*(?:q_proj|v_proj)", "model.text.q_proj", true],
    [".*(?<!lm_head)", "lm_head", false],
  ])("read Python's %s", (source, name, matches) => {
    expect(compilePattern(source).matches(name)).toBe(matches);
  });

  it.each([
    ["(a)\\1", "back to a group"],
    ["(?P<x>a)(?P=x)", "back to a group"],
    ["a++", "possessive"],
    ["(?>a)", "atomic"],
    ["(?(1)a|b)", "condition"],
    ["(?x)a b", "flags"],
    ["a(?#why)", "comment"],
    ["[", "no regular expression"],
    ["a".repeat(20_000), "longer than"],
    ["(".repeat(200) + ")".repeat(200), "deeper than"],
  ])("say what is not supported in %s", (source, why) => {
    expect(() => compilePattern(source)).toThrow(why);
  });

  it.each([
    "(a+)+$",
    "(a|a)*b",
    "(.*)*x",
    "((a*)*)*b",
    ".*.*.*.*.*.*.*x",
    "(a?){50}a{50}b",
    "(?=(a+)+b)a*",
    "(?<=(a+)+)b",
    `${"(".repeat(40)}a${")*".repeat(40)}b`,
  ])("end soon: %s", (source) => {
    const start = performance.now();
    try {
      expect(compilePattern(source).matches(`${"a".repeat(200)}!`)).toBe(false);
    } catch (error) {
      expect(String(error)).toContain("steps");
    }
    expect(performance.now() - start).toBeLessThan(2000);
  });
});
