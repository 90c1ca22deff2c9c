import { nearest, TuneError } from "../errors.ts";
import { addDims, type Dim, isCanonicalDim, isConcrete } from "./dims.ts";
import { type Graph, graph, topologicalOrder } from "./graph.ts";
import { readElements, readFloat } from "./literal.ts";
import { bytesPerElement, type DType, isDType, sizeOf, type Tensor } from "./tensor.ts";
import { type Token, type Tokens, tokenise } from "./tokens.ts";
import {
  type Attribute,
  constantOf,
  type InputValue,
  input,
  makeNode,
  parameter,
  type Value,
  type ValueType,
  type WeightValue,
} from "./value.ts";

/**
 * A graph from the text that `print` writes. Text carries no weights: reading one rejects with `weights-not-in-text`.
 * Results keep their names where they are free; constants are named anew; nodes that no output needs are dropped.
 * @throws {TuneError} `graph-text` with the line: bad syntax, a name used twice or before it is defined, a literal that
 * does not fit its type.
 */
export function parse(text: string): Graph {
  const tokens = tokenise(text);
  const values = new Map<string, Value>();
  const define = (token: Token, value: Value): void => {
    if (values.has(token.text)) throw tokens.error(token, `"${token.text}" is defined twice.`, "rename one of them");
    values.set(token.text, value);
  };
  const use = (): Value => {
    const token = nameToken(tokens);
    const value = values.get(token.text);
    if (value !== undefined) return value;
    const close = nearest(token.text, values.keys());
    throw tokens.error(
      token,
      `"${token.text}" is used but not defined before.`,
      close.length > 0 ? `did you mean ${close.join(", ")}?` : "define it above",
    );
  };

  tokens.expect("graph");
  const name = nameToken(tokens).text;
  const inputs: InputValue[] = [];
  tokens.list("(", ")", () => {
    const token = nameToken(tokens);
    const { dtype, shape } = typeAfterColon(tokens);
    const value = input(token.text, dtype, shape);
    define(token, value);
    inputs.push(value);
  });
  tokens.expect("{");
  while (!tokens.takeWord("return")) {
    if (tokens.takeWord("parameter")) {
      const token = nameToken(tokens);
      const { dtype, shape } = concreteTypeAfterColon(tokens);
      define(token, parameter(token.text, dtype, shape));
    } else if (tokens.takeWord("weight")) {
      const token = nameToken(tokens);
      define(token, readWeight(tokens, token.text));
    } else if (tokens.takeWord("constant")) {
      const token = nameToken(tokens);
      tokens.expect(":");
      define(token, constantOf(readTensor(tokens)));
    } else {
      readNode(tokens, define, use);
    }
  }
  const outputs = new Map<string, Value>();
  do {
    const token = nameToken(tokens, "the name of an output");
    if (outputs.has(token.text)) throw tokens.error(token, `there are two outputs "${token.text}".`, "rename one");
    const same = values.get(token.text);
    const value = tokens.take("=") ? use() : (same ?? tokens.fail(token, `"${token.text}" is not defined.`));
    // A graph names each output after itself, so the name cannot also be that of something fed from outside.
    if (same !== undefined && same.kind !== "result" && same.kind !== "constant") {
      throw tokens.error(token, `the output "${token.text}" has the name of an ${same.kind}.`, "rename the output");
    }
    outputs.set(token.text, value);
  } while (tokens.take(","));
  tokens.expect("}");
  tokens.end();
  // Nodes keep the order they are written in, but for those that no output needs.
  const needed = new Set(topologicalOrder([...outputs.values()]));
  const first = [...values.values()].filter((value) => value.kind === "result" && needed.has(value.node));
  return graph({ name, inputs, outputs, first });
}

function nameToken(tokens: Tokens, what = "a name"): Token {
  const token = tokens.next();
  if (token.kind === "string" || (token.kind === "word" && /^[\w./-]+$/.test(token.text))) return token;
  throw tokens.error(token, `expected ${what}, found ${show(token)}.`);
}

function show({ kind, text }: Token): string {
  return kind === "end" ? "the end of the text" : JSON.stringify(text);
}

function typeAfterColon(tokens: Tokens): ValueType {
  tokens.expect(":");
  return readType(tokens);
}

function readType(tokens: Tokens): ValueType {
  const token = tokens.next();
  const dtype = token.text;
  if (token.kind !== "word" || !isDType(dtype)) {
    throw tokens.error(token, `expected an element type, found ${show(token)}.`, "write a type such as float32[2, 3]");
  }
  const shape: Dim[] = [];
  tokens.list("[", "]", () => {
    shape.push(readDim(tokens));
  });
  return { dtype, shape };
}

function readDim(tokens: Tokens): Dim {
  const token = tokens.next();
  if (token.kind === "string") return token.text;
  if (token.kind === "word" && /^-?\w+([*+-]\w+)*$/.test(token.text)) {
    const dim = /^\d+$/.test(token.text) ? Number(token.text) : addDims(token.text, 0);
    if (isCanonicalDim(dim)) return dim;
  }
  throw tokens.error(
    token,
    `expected a size, found ${show(token)}.`,
    "use a whole number or symbols such as 2*past+seq",
  );
}

function concreteTypeAfterColon(tokens: Tokens): { dtype: DType; shape: readonly number[] } {
  tokens.expect(":");
  return readConcreteType(tokens);
}

function readConcreteType(tokens: Tokens): { dtype: DType; shape: readonly number[] } {
  const token = tokens.peek();
  const { dtype, shape } = readType(tokens);
  if (isConcrete(shape)) return { dtype, shape };
  throw tokens.error(token, "its sizes must be numbers.");
}

function readWeight(tokens: Tokens, name: string): WeightValue {
  const { dtype, shape } = concreteTypeAfterColon(tokens);
  let stored = dtype;
  if (tokens.takeWord("from")) {
    const token = tokens.next();
    if (!isDType(token.text)) throw tokens.error(token, `expected an element type, found ${show(token)}.`);
    stored = token.text;
  }
  const read = async (): Promise<Tensor> => {
    throw new TuneError("weights-not-in-text", `the graph came from text, which does not hold the weight ${name}.`, {
      at: name,
      fix: "load the graph from a model file to run it",
    });
  };
  const source = { dtype: stored, shape, sizeBytes: sizeOf(shape) * bytesPerElement(stored), read };
  return Object.freeze({ kind: "weight", name, dtype, shape, source });
}

/** `float32[2] = [1, 2]`. */
function readTensor(tokens: Tokens): Tensor {
  const start = tokens.peek();
  const { dtype, shape } = readConcreteType(tokens);
  tokens.expect("=");
  const words: string[] = [];
  const element = (): void => {
    const token = tokens.next();
    words.push(token.kind === "word" ? token.text : tokens.fail(token, `expected a number, found ${show(token)}.`));
  };
  if (shape.length === 0) element();
  else tokens.list("[", "]", element);
  return (
    readElements(dtype, shape, words) ??
    tokens.fail(start, `the ${words.length} elements do not fit ${dtype}[${shape.join(", ")}].`)
  );
}

function readNode(tokens: Tokens, define: (token: Token, value: Value) => void, use: () => Value): void {
  const results: Token[] = [];
  const types: ValueType[] = [];
  do {
    results.push(nameToken(tokens, results.length === 0 ? 'a line of the graph or "return"' : "a name"));
    types.push(typeAfterColon(tokens));
  } while (tokens.take(","));
  tokens.expect("=");
  const first = nameToken(tokens, "an operator").text;
  const [domain, op] = tokens.take("::") ? [first, nameToken(tokens, "an operator").text] : ["", first];
  const inputs: (Value | undefined)[] = [];
  tokens.list("(", ")", () => {
    inputs.push(tokens.takeWord("_") ? undefined : use());
  });
  const attributes = new Map<string, Attribute>();
  if (tokens.peek().text === "{" && tokens.peek().kind === "mark") {
    tokens.list("{", "}", () => {
      const key = nameToken(tokens, "an attribute");
      if (attributes.has(key.text)) throw tokens.error(key, `the attribute "${key.text}" is given twice.`);
      tokens.expect(":");
      attributes.set(key.text, readAttribute(tokens));
    });
  }
  const scope = tokens.take("@") ? nameToken(tokens, "a scope").text : "";
  const node = makeNode({
    op,
    domain,
    inputs,
    attributes: Object.fromEntries(attributes),
    outputs: types,
    hints: results.map(({ text }) => text),
    scope,
  });
  node.outputs.forEach((value, i) => {
    const token = results[i];
    if (token !== undefined) define(token, value);
  });
}

function readAttribute(tokens: Tokens): Attribute {
  const token = tokens.peek();
  if (token.kind === "mark" && token.text === "[") return readList(tokens);
  if (token.kind === "word" && isDType(token.text)) return { type: "tensor", value: readTensor(tokens) };
  if (tokens.takeWord("floats")) return emptyList(tokens, { type: "floats", value: [] });
  if (tokens.takeWord("strings")) return emptyList(tokens, { type: "strings", value: [] });
  return readScalar(tokens);
}

function emptyList(tokens: Tokens, attribute: Attribute): Attribute {
  tokens.expect("[");
  tokens.expect("]");
  return attribute;
}

function readScalar(tokens: Tokens): Extract<Attribute, { type: "int" | "float" | "string" }> {
  const token = tokens.next();
  if (token.kind === "string") return { type: "string", value: token.text };
  if (token.kind === "word") {
    if (/^-?\d+$/.test(token.text)) return { type: "int", value: Number(token.text) };
    const suffixed = token.text.endsWith("f") && /\d/.test(token.text);
    const float =
      suffixed || /^(-?inf|nan)$/.test(token.text) ? readFloat(token.text.replace(/(\d)f$/, "$1")) : undefined;
    if (float !== undefined) return { type: "float", value: float };
  }
  throw tokens.error(token, `expected an attribute, found ${show(token)}.`, 'write 1, 1f, "text" or a list of them');
}

function readList(tokens: Tokens): Attribute {
  const start = tokens.peek();
  const items: ReturnType<typeof readScalar>[] = [];
  tokens.list("[", "]", () => {
    items.push(readScalar(tokens));
  });
  const ints = items.flatMap((item) => (item.type === "int" ? [item.value] : []));
  const floats = items.flatMap((item) => (item.type === "float" ? [item.value] : []));
  const strings = items.flatMap((item) => (item.type === "string" ? [item.value] : []));
  if (ints.length === items.length) return { type: "ints", value: ints };
  if (floats.length === items.length) return { type: "floats", value: floats };
  if (strings.length === items.length) return { type: "strings", value: strings };
  throw tokens.error(start, "a list holds items of one type.");
}
