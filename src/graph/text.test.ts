import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { someGraph } from "../../tests/helpers/random-graph.ts";
import { TuneError } from "../errors.ts";
import { type Graph, graph, input, makeNode, parse, print, type ResultValue, type Value, verify } from "./index.ts";

const step = `graph step(input_ids: int64[batch, seq], lr: float32[], unused: bool[2*past+seq]) {
  parameter layer.lora_A: float32[8, 64]
  weight model.embed_tokens.weight: float32[512, 64] from bfloat16
  constant "constant": int64[2] = [0, -1]
  constant constant_1: float32[] = 0.1
  constant constant_2: float16[3] = [0x3c00, 0xfc00, 0x7e01]
  constant constant_3: bool[1, 2] = [true, false]
  "odd name": float32[batch, seq, 64] = Gather(model.embed_tokens.weight, input_ids) {axis: 0} @model.embed_tokens
  model.layers.0/Split: float32[batch, 8], second: float32[2] = Split("odd name", _, "constant", layer.lora_A, lr)
  loss: float32[] = com.example::Mix(model.layers.0/Split, constant_1, constant_2, constant_3) {epsilon: 0.00001f, perm: [0, 1], none: [], scales: [0.5f, -inf], empty: floats[], mode: "a\\nb", words: ["x"], value: float32[2] = [-0, nan], low: -inf} @model.layers.0
  return loss, second
}
`;

describe("graph text", () => {
  it("reads back what it prints", () => {
    expect(print(parse(step))).toBe(step);
  });

  it("is the same after print, parse, print, whatever the graph", () => {
    fc.assert(
      fc.property(someGraph, (drawn) => {
        verify(drawn);
        const text = print(drawn);
        const parsed = parse(text);
        verify(parsed);
        expect(print(parsed)).toBe(text);
      }),
      { numRuns: 300, seed: 1 },
    );
  });

  it("takes comments, blank lines and sizes in any order of terms", () => {
    const parsed = parse(`# a comment
      graph g(x: float32[seq+past, 03]) {

        y: float32[seq+1+past] = Neg(x) # another
        return z = y, x_again = x
      }`);
    expect(print(parsed)).toBe(`graph g(x: float32[past+seq, 3]) {
  z: float32[past+seq+1] = Neg(x)
  x_again: float32[past+seq, 3] = Identity(x)
  return z, x_again
}
`);
  });

  it("carries no weights", async () => {
    const [weight] = parse("graph g() { weight w: float32[2] y: float32[2] = Neg(w) return y }").weights;
    await expect(weight?.source.read()).rejects.toMatchObject({ code: "weights-not-in-text", at: "w" });
  });

  it.each([
    ["", "", "line 1"],
    ["not a graph", "graph h", "line 1"],
    ["an unknown type", "graph g(x: float12[2]) { return x }", "line 1"],
    ["a name used before it is defined", "graph g(x: int8[]) {\n y: int8[] = Neg(z)\n return y }", "line 2"],
    ["a name defined twice", "graph g(x: int8[],\n x: int8[]) { y: int8[] = Neg(x) return y }", "line 2"],
    ["an output named like an input", "graph g(x: int8[]) { return x }", "line 1"],
    ["an output that is not there", "graph g(x: int8[]) { return y }", "line 1"],
    ["two outputs of one name", "graph g(x: int8[]) { return y = x, y = x }", "line 1"],
    ["a literal of the wrong length", "graph g() { constant c: int64[2] = [1] return y = c }", "line 1"],
    ["a literal out of range", "graph g() { constant c: uint8[] = 256 return y = c }", "line 1"],
    ["an integer beyond 64 bits", "graph g() { constant c: int64[] = 9223372036854775808 return y = c }", "line 1"],
    ["a fraction as an integer", "graph g() { constant c: int64[] = 0.5 return y = c }", "line 1"],
    ["a symbolic parameter", "graph g() { parameter p: float32[n] return y = p }", "line 1"],
    ["a negative size", "graph g(x: int8[-1]) { return y = x }", "line 1"],
    ["a mixed list", "graph g(x: int8[]) { y: int8[] = Neg(x) {a: [1, 2f]} return y }", "line 1"],
    ["an attribute given twice", "graph g(x: int8[]) { y: int8[] = Neg(x) {a: 1, a: 1} return y }", "line 1"],
    ["a bad attribute", "graph g(x: int8[]) { y: int8[] = Neg(x) {a: b} return y }", "line 1"],
    ["a string that does not end", 'graph "g', "line 1"],
    ["a bad escape", 'graph "\\q"() {}', "line 1"],
    ["a stray character", "graph g(x: int8[]) {\n\n ? }", "line 3"],
    ["text after the end", "graph g(x: int8[]) { return y = x }\n}", "line 2"],
    ["text that stops", "graph g(x: int8[]) { return y = x", "line 1"],
  ])("refuses %s", (_, text, line) => {
    const error = catching(() => parse(text));
    expect(error).toBeInstanceOf(TuneError);
    expect(error).toMatchObject({ code: "graph-text", at: line });
  });

  it("suggests the name that was meant", () => {
    const error = catching(() => parse("graph g(logits: int8[]) { y: int8[] = Neg(logit) return y }"));
    expect(error).toMatchObject({ fix: "did you mean logits?" });
  });
});

describe("verify", () => {
  const x = input("x", "float32", ["n"]);
  const neg = (of: Value): ResultValue => first(makeNode({ op: "Neg", inputs: [of], outputs: [of] }).outputs);
  const two = graph({ inputs: [x], outputs: { y: neg(neg(x)) } });

  it("takes a graph that is well formed", () => {
    expect(() => verify(two)).not.toThrow();
  });

  it.each<[string, Graph, string]>([
    ["nodes out of order", { ...two, nodes: two.nodes.toReversed() }, "input 0 is not computed before: y: float32[n]"],
    ["a leaf that is not listed", { ...two, inputs: [] }, "input 0 is not computed before"],
    ["a value without a name", { ...two, names: new Map([[x, "x"]]) }, "a result value has no name"],
    ["names used twice", { ...two, names: new Map([...two.names.keys()].map((v) => [v, "x"])) }, "are called x"],
    ["a node listed twice", { ...two, nodes: [...two.nodes, ...two.nodes] }, "is defined twice"],
    ["an output that no node computes", { ...two, outputs: new Map([["x", x]]) }, "output x is computed by no node"],
    ["names of values it does not hold", { ...two, names: new Map([...two.names, [neg(x), "z"]]) }, "does not hold"],
    [
      "a size that is not canonical",
      graph({ outputs: { y: neg(input("x", "int8", ["b+a"])) } }),
      '"b+a" is not a size',
    ],
    ["a negative size", graph({ outputs: { y: neg(input("x", "int8", [-1])) } }), "-1 is not a size"],
  ])("refuses %s", (_, broken, message) => {
    expect(() => verify(broken)).toThrow(message);
  });

  it("checks types that the caller infers", () => {
    expect(() => verify(two, { infer: () => undefined })).not.toThrow();
    expect(() => verify(two, { infer: (node) => node.outputs })).not.toThrow();
    expect(() => verify(two, { infer: () => [{ dtype: "int8", shape: [] }] })).toThrow("ought to be int8[]");
    expect(() => verify(two, { infer: () => [] })).toThrow("Neg has 0 outputs here, not 1");
  });
});

describe("large graphs", () => {
  it("are built, checked, printed and parsed in time that grows with their size", () => {
    const elapsedMs = (nodes: number): number => {
      const startMs = performance.now();
      let y: Value = input("x", "float32", ["n"]);
      for (let i = 0; i < nodes; i++) {
        y = first(makeNode({ op: "Add", inputs: [y, y], outputs: [y], scope: `layer.${i % 8}` }).outputs);
      }
      const large = graph({ outputs: { y } });
      verify(large);
      expect(print(parse(print(large))).length).toBeGreaterThan(nodes * 20);
      return performance.now() - startMs;
    };
    elapsedMs(2000); // warm up
    const small = elapsedMs(5000);
    // Four times the nodes: quadratic would be 16 times the time; the room is for a busy machine.
    expect(elapsedMs(20_000)).toBeLessThan(10 * small + 500);
  });
});

function first(values: readonly ResultValue[]): ResultValue {
  const [value] = values;
  if (value === undefined) throw new Error("a node has an output");
  return value;
}

function catching(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}
