import { lex, type Token } from "./lex.ts";

/** An expression. */
export type Expr =
  | { readonly type: "const"; readonly value: string | number | bigint | boolean | null }
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "list" | "tuple"; readonly items: readonly Expr[] }
  | { readonly type: "dict"; readonly entries: readonly (readonly [Expr, Expr])[] }
  | { readonly type: "attribute"; readonly of: Expr; readonly name: string }
  | { readonly type: "item"; readonly of: Expr; readonly key: Expr }
  | { readonly type: "slice"; readonly of: Expr; readonly bounds: readonly (Expr | undefined)[] }
  | { readonly type: "call"; readonly callee: Expr; readonly args: Args }
  | { readonly type: "filter"; readonly of: Expr; readonly name: string; readonly args: Args }
  | { readonly type: "test"; readonly of: Expr; readonly name: string; readonly args: Args }
  | { readonly type: "not" | "negative" | "positive"; readonly of: Expr }
  | { readonly type: "and" | "or"; readonly left: Expr; readonly right: Expr }
  | { readonly type: "binary"; readonly operator: string; readonly left: Expr; readonly right: Expr }
  | { readonly type: "join"; readonly items: readonly Expr[] }
  | { readonly type: "compare"; readonly first: Expr; readonly rest: readonly (readonly [string, Expr])[] }
  | { readonly type: "condition"; readonly test: Expr; readonly yes: Expr; readonly no: Expr | undefined };

/** What a call is given. */
export interface Args {
  readonly positional: readonly Expr[];
  readonly named: readonly (readonly [string, Expr])[];
  readonly list?: Expr;
  readonly dict?: Expr;
}

/** A parameter of a macro. */
export interface Parameter {
  readonly name: string;
  readonly initial?: Expr;
}

/** Where a value is put. */
export type Target =
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "field"; readonly name: string; readonly field: string }
  | { readonly type: "tuple"; readonly items: readonly Target[] };

/** A statement, or text. */
export type Node =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "print"; readonly value: Expr }
  | { readonly type: "if"; readonly test: Expr; readonly body: readonly Node[]; readonly otherwise: readonly Node[] }
  | {
      readonly type: "for";
      readonly target: Target;
      readonly over: Expr;
      readonly test: Expr | undefined;
      readonly body: readonly Node[];
      readonly otherwise: readonly Node[];
    }
  | { readonly type: "set"; readonly target: Target; readonly value: Expr }
  | {
      readonly type: "capture";
      readonly target: Target;
      readonly filters: readonly Filter[];
      readonly body: readonly Node[];
    }
  | {
      readonly type: "macro";
      readonly name: string;
      readonly parameters: readonly Parameter[];
      readonly body: readonly Node[];
    }
  | {
      readonly type: "callblock";
      readonly parameters: readonly Parameter[];
      readonly call: Expr;
      readonly body: readonly Node[];
    }
  | { readonly type: "filterblock"; readonly filters: readonly Filter[]; readonly body: readonly Node[] }
  | { readonly type: "with"; readonly values: readonly (readonly [Target, Expr])[]; readonly body: readonly Node[] }
  | { readonly type: "generation"; readonly body: readonly Node[] }
  | { readonly type: "break" | "continue" };

/** A filter with what it is given. */
export interface Filter {
  readonly name: string;
  readonly args: Args;
}

const noArgs: Args = { positional: [], named: [] };

/**
 * Parse a template as Jinja 3.1 does with transformers' extensions (loop controls, `{% generation %}`). What belongs to
 * several templates (`include`, `extends`, …) is refused, as transformers has no second one to give.
 * @throws {SyntaxError} naming the line.
 */
export function parseTemplate(source: string): readonly Node[] {
  return new Parser(lex(source)).template();
}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  template(): readonly Node[] {
    const body = this.#body([]);
    if (this.#now.kind !== "end") throw this.#unexpected();
    return body;
  }

  get #now(): Token {
    return this.#tokens[this.#at] as Token; // the last is `end`, which nobody passes
  }

  #is(kind: Token["kind"], ...values: readonly string[]): boolean {
    return this.#now.kind === kind && (values.length === 0 || values.includes(this.#now.value));
  }

  #take(kind: Token["kind"], ...values: readonly string[]): string | undefined {
    if (!this.#is(kind, ...values)) return undefined;
    const { value } = this.#now;
    this.#at++;
    return value;
  }

  #need(kind: Token["kind"], ...values: readonly string[]): string {
    const taken = this.#take(kind, ...values);
    if (taken === undefined) throw this.#unexpected(values[0] ?? kind);
    return taken;
  }

  #unexpected(wanted?: string): SyntaxError {
    const { kind, value, line } = this.#now;
    const found = kind === "end" ? "the end of the template" : `"${value}"`;
    return new SyntaxError(`line ${line}: unexpected ${found}${wanted === undefined ? "" : `, expected "${wanted}"`}`);
  }

  /** Statements up to a tag that begins with one of some words; that word is passed. */
  #body(until: readonly string[]): readonly Node[] {
    if (++this.#depth > 100) throw new SyntaxError("blocks nest deeper than 100 levels");
    const body: Node[] = [];
    for (;;) {
      const text = this.#take("text");
      if (text !== undefined) body.push({ type: "text", text });
      else if (this.#take("print") !== undefined) {
        body.push({ type: "print", value: this.#tuple() });
        this.#need("endprint");
      } else if (this.#is("open")) {
        const next = this.#tokens[this.#at + 1];
        if (next?.kind === "name" && until.includes(next.value)) {
          this.#at += 2;
          this.#depth--;
          return body;
        }
        this.#at++;
        body.push(this.#statement());
      } else {
        if (until.length > 0) throw this.#unexpected(until.at(-1));
        this.#depth--;
        return body;
      }
    }
  }

  #previous(): string {
    return this.#tokens[this.#at - 1]?.value ?? "";
  }

  #statement(): Node {
    const name = this.#need("name");
    switch (name) {
      case "if":
        return this.#if();
      case "for":
        return this.#for();
      case "set":
        return this.#set();
      case "macro": {
        const called = this.#need("name");
        const parameters = this.#parameters();
        return { type: "macro", name: called, parameters, body: this.#block("endmacro") };
      }
      case "call": {
        const parameters = this.#is("operator", "(") ? this.#parameters() : [];
        const call = this.#expression();
        if (call.type !== "call") throw this.#unexpected("call");
        return { type: "callblock", parameters, call, body: this.#block("endcall") };
      }
      case "filter": {
        const filters = this.#filters(true);
        return { type: "filterblock", filters, body: this.#block("endfilter") };
      }
      case "with": {
        const values: (readonly [Target, Expr])[] = [];
        while (!this.#is("close")) {
          if (values.length > 0) this.#need("operator", ",");
          const target = this.#target(false);
          this.#need("operator", "=");
          values.push([target, this.#expression()]);
        }
        return { type: "with", values, body: this.#block("endwith") };
      }
      case "generation":
        return { type: "generation", body: this.#block("endgeneration") };
      case "break":
      case "continue":
        this.#need("close");
        return { type: name };
      default:
        throw new SyntaxError(`line ${this.#now.line}: the tag {% ${name} %} is unknown, or not supported`);
    }
  }

  #block(end: string): readonly Node[] {
    this.#need("close");
    const body = this.#body([end]);
    this.#need("close");
    return body;
  }

  #if(): Node {
    const test = this.#tuple(false);
    this.#need("close");
    const body = this.#body(["elif", "else", "endif"]);
    const word = this.#previous();
    if (word === "elif") return { type: "if", test, body, otherwise: [this.#if()] };
    this.#need("close");
    if (word === "endif") return { type: "if", test, body, otherwise: [] };
    const otherwise = this.#body(["endif"]);
    this.#need("close");
    return { type: "if", test, body, otherwise };
  }

  #for(): Node {
    const target = this.#target(false, "in");
    this.#need("name", "in");
    const over = this.#tuple(false, "recursive");
    const test = this.#take("name", "if") === undefined ? undefined : this.#expression();
    if (this.#is("name", "recursive"))
      throw new SyntaxError(`line ${this.#now.line}: recursive loops are not supported`);
    this.#need("close");
    const body = this.#body(["else", "endfor"]);
    let otherwise: readonly Node[] = [];
    if (this.#previous() === "else") {
      this.#need("close");
      otherwise = this.#body(["endfor"]);
    }
    this.#need("close");
    return { type: "for", target, over, test, body, otherwise };
  }

  #set(): Node {
    const target = this.#target(true);
    if (this.#take("operator", "=") !== undefined) {
      const value = this.#tuple();
      this.#need("close");
      return { type: "set", target, value };
    }
    const filters = this.#filters(false);
    return { type: "capture", target, filters, body: this.#block("endset") };
  }

  #target(fields: boolean, end = ""): Target {
    const one = (): Target => {
      if (this.#take("operator", "(") !== undefined) {
        const inner = this.#target(fields);
        this.#need("operator", ")");
        return inner;
      }
      const name = this.#need("name");
      if (reserved.has(name)) throw new SyntaxError(`line ${this.#now.line}: cannot assign to "${name}"`);
      if (!fields || this.#take("operator", ".") === undefined) return { type: "name", name };
      return { type: "field", name, field: this.#need("name") };
    };
    const first = one();
    if (!this.#is("operator", ",")) return first;
    const items = [first];
    while (this.#take("operator", ",") !== undefined) {
      if (this.#is("operator", "=", ")") || this.#is("close") || (end !== "" && this.#is("name", end))) break;
      items.push(one());
    }
    return { type: "tuple", items };
  }

  #parameters(): readonly Parameter[] {
    this.#need("operator", "(");
    const parameters: Parameter[] = [];
    while (!this.#is("operator", ")")) {
      if (parameters.length > 0) this.#need("operator", ",");
      if (this.#is("operator", ")")) break;
      const name = this.#need("name");
      if (this.#take("operator", "=") !== undefined) parameters.push({ name, initial: this.#expression() });
      else if (parameters.some(({ initial }) => initial)) throw this.#unexpected("=");
      else parameters.push({ name });
    }
    this.#need("operator", ")");
    return parameters;
  }

  #filters(inline: boolean): readonly Filter[] {
    const filters: Filter[] = [];
    let next = inline;
    while (next || this.#take("operator", "|") !== undefined) {
      next = false;
      const name = this.#dotted();
      filters.push({ name, args: this.#is("operator", "(") ? this.#args() : noArgs });
    }
    return filters;
  }

  #dotted(): string {
    let name = this.#need("name");
    while (this.#take("operator", ".") !== undefined) name += `.${this.#need("name")}`;
    return name;
  }

  /** Expressions separated by commas are a tuple. */
  #tuple(conditional = true, end = "", parenthesised = false): Expr {
    const one = (): Expr => (conditional ? this.#expression() : this.#or());
    const ends = (): boolean =>
      this.#is("close") || this.#is("endprint") || this.#is("operator", ")") || (end !== "" && this.#is("name", end));
    const items: Expr[] = [];
    let isTuple = false;
    while (!ends()) {
      if (items.length > 0 && this.#take("operator", ",") === undefined) break;
      if (items.length > 0) isTuple = true;
      if (ends()) break;
      items.push(one());
      if (this.#is("operator", ",")) isTuple = true;
      else break;
    }
    if (!isTuple && items[0]) return items[0];
    if (items.length === 0 && !parenthesised) throw this.#unexpected();
    return { type: "tuple", items };
  }

  #expression(): Expr {
    if (++this.#depth > 200) throw new SyntaxError("expressions nest deeper than 200 levels");
    let value = this.#or();
    while (this.#take("name", "if") !== undefined) {
      const test = this.#or();
      const no = this.#take("name", "else") === undefined ? undefined : this.#expression();
      value = { type: "condition", test, yes: value, no };
    }
    this.#depth--;
    return value;
  }

  #or(): Expr {
    let left = this.#and();
    while (this.#take("name", "or") !== undefined) left = { type: "or", left, right: this.#and() };
    return left;
  }

  #and(): Expr {
    let left = this.#not();
    while (this.#take("name", "and") !== undefined) left = { type: "and", left, right: this.#not() };
    return left;
  }

  #not(): Expr {
    let count = 0;
    while (this.#take("name", "not") !== undefined) count++;
    let value = this.#compare();
    for (; count > 0; count--) value = { type: "not", of: value };
    return value;
  }

  #compare(): Expr {
    const first = this.#sum();
    const rest: (readonly [string, Expr])[] = [];
    for (;;) {
      const operator = this.#take("operator", "==", "!=", "<", "<=", ">", ">=") ?? this.#take("name", "in");
      if (operator !== undefined) rest.push([operator, this.#sum()]);
      else if (this.#is("name", "not") && this.#tokens[this.#at + 1]?.value === "in") {
        this.#at += 2;
        rest.push(["not in", this.#sum()]);
      } else break;
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  #sum(): Expr {
    let left = this.#joined();
    for (;;) {
      const operator = this.#take("operator", "+", "-");
      if (operator === undefined) return left;
      left = { type: "binary", operator, left, right: this.#joined() };
    }
  }

  #joined(): Expr {
    const items = [this.#product()];
    while (this.#take("operator", "~") !== undefined) items.push(this.#product());
    return items.length === 1 ? (items[0] as Expr) : { type: "join", items };
  }

  #product(): Expr {
    let left = this.#power();
    for (;;) {
      const operator = this.#take("operator", "*", "/", "//", "%");
      if (operator === undefined) return left;
      left = { type: "binary", operator, left, right: this.#power() };
    }
  }

  #power(): Expr {
    let left = this.#unary();
    while (this.#take("operator", "**") !== undefined)
      left = { type: "binary", operator: "**", left, right: this.#unary() };
    return left;
  }

  #unary(filtered = true): Expr {
    if (++this.#depth > 400) throw new SyntaxError("expressions nest deeper than 200 levels");
    const sign = this.#take("operator", "-", "+");
    let value: Expr =
      sign === undefined ? this.#primary() : { type: sign === "-" ? "negative" : "positive", of: this.#unary(false) };
    value = this.#postfix(value);
    if (filtered) value = this.#filtered(value);
    this.#depth--;
    return value;
  }

  #postfix(start: Expr): Expr {
    let value = start;
    for (;;) {
      if (this.#take("operator", ".") !== undefined) {
        const number = this.#take("integer");
        if (number !== undefined) value = { type: "item", of: value, key: { type: "const", value: BigInt(number) } };
        else value = { type: "attribute", of: value, name: this.#need("name") };
      } else if (this.#take("operator", "[") !== undefined) value = this.#subscript(value);
      else if (this.#is("operator", "(")) value = { type: "call", callee: value, args: this.#args() };
      else return value;
    }
  }

  #filtered(start: Expr): Expr {
    let value = start;
    for (;;) {
      if (this.#is("operator", "|"))
        for (const { name, args } of this.#filters(false)) value = { type: "filter", of: value, name, args };
      else if (this.#take("name", "is") !== undefined) value = this.#test(value);
      else if (this.#is("operator", "(")) value = { type: "call", callee: value, args: this.#args() };
      else return value;
    }
  }

  #test(of: Expr): Expr {
    const negated = this.#take("name", "not") !== undefined;
    const name = this.#dotted();
    let args = noArgs;
    if (this.#is("operator", "(")) args = this.#args();
    else if (
      (this.#is("name") && !this.#is("name", "else", "or", "and")) ||
      this.#is("string") ||
      this.#is("integer") ||
      this.#is("float") ||
      this.#is("operator", "[", "{")
    ) {
      if (this.#is("name", "is")) throw new SyntaxError(`line ${this.#now.line}: tests with "is" cannot be chained`);
      args = { positional: [this.#postfix(this.#primary())], named: [] };
    }
    const test: Expr = { type: "test", of, name, args };
    return negated ? { type: "not", of: test } : test;
  }

  #subscript(of: Expr): Expr {
    const parts: (Expr | undefined)[] = [];
    let colons = 0;
    while (!this.#is("operator", "]")) {
      if (this.#take("operator", ":") !== undefined) {
        if (parts.length <= colons) parts.push(undefined);
        colons++;
      } else if (this.#is("operator", ","))
        throw new SyntaxError(`line ${this.#now.line}: several indices are not supported`);
      else parts.push(this.#expression());
    }
    this.#need("operator", "]");
    if (colons === 0) return { type: "item", of, key: parts[0] ?? this.#fail() };
    return { type: "slice", of, bounds: parts };
  }

  #fail(): never {
    throw this.#unexpected();
  }

  #args(): Args {
    this.#need("operator", "(");
    const positional: Expr[] = [];
    const named: (readonly [string, Expr])[] = [];
    let [list, dict]: (Expr | undefined)[] = [];
    let first = true;
    while (!this.#is("operator", ")")) {
      if (!first) this.#need("operator", ",");
      first = false;
      if (this.#is("operator", ")")) break;
      if (this.#take("operator", "*") !== undefined) list = this.#expression();
      else if (this.#take("operator", "**") !== undefined) dict = this.#expression();
      else if (
        this.#is("name") &&
        this.#tokens[this.#at + 1]?.kind === "operator" &&
        this.#tokens[this.#at + 1]?.value === "="
      ) {
        const name = this.#need("name");
        this.#at++;
        named.push([name, this.#expression()]);
      } else if (named.length > 0 || dict) throw this.#unexpected("name=value");
      else positional.push(this.#expression());
    }
    this.#need("operator", ")");
    return { positional, named, ...(list ? { list } : {}), ...(dict ? { dict } : {}) };
  }

  #primary(): Expr {
    const name = this.#take("name");
    if (name !== undefined) {
      const constant = constants.get(name);
      return constant === undefined ? { type: "name", name } : { type: "const", value: constant };
    }
    let text = this.#take("string");
    if (text !== undefined) {
      for (let more = this.#take("string"); more !== undefined; more = this.#take("string")) text += more;
      return { type: "const", value: text };
    }
    const integer = this.#take("integer");
    if (integer !== undefined) return { type: "const", value: BigInt(integer.replaceAll("_", "")) };
    const float = this.#take("float");
    if (float !== undefined) return { type: "const", value: Number(float.replaceAll("_", "")) };
    if (this.#take("operator", "(") !== undefined) {
      const value = this.#tuple(true, "", true);
      this.#need("operator", ")");
      return value;
    }
    if (this.#take("operator", "[") !== undefined) {
      const items: Expr[] = [];
      while (!this.#is("operator", "]")) {
        if (items.length > 0) this.#need("operator", ",");
        if (this.#is("operator", "]")) break;
        items.push(this.#expression());
      }
      this.#need("operator", "]");
      return { type: "list", items };
    }
    if (this.#take("operator", "{") !== undefined) {
      const entries: (readonly [Expr, Expr])[] = [];
      while (!this.#is("operator", "}")) {
        if (entries.length > 0) this.#need("operator", ",");
        if (this.#is("operator", "}")) break;
        const key = this.#expression();
        this.#need("operator", ":");
        entries.push([key, this.#expression()]);
      }
      this.#need("operator", "}");
      return { type: "dict", entries };
    }
    throw this.#unexpected();
  }
}

const constants: ReadonlyMap<string, boolean | null | undefined> = new Map<string, boolean | null>([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
]);

const reserved: ReadonlySet<string> = new Set(["true", "True", "false", "False", "none", "None"]);
