import { roomForItems, roomForText, withBudget } from "./budget.ts";
import { contains, testNamed } from "./checks.ts";
import { filterNamed } from "./filters.ts";
import { itemOf, joined, methodOf, percent, slice } from "./methods.ts";
import type { Args, Expr, Filter, Node, Parameter, Target } from "./parse.ts";
import {
  asNumber,
  Callable,
  compare,
  dictOf,
  equal,
  iterate,
  Namespace,
  notForSafe,
  orUndefined,
  Safe,
  str,
  TemplateError,
  Tuple,
  truth,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

/** What a template may do. */
export interface Limits {
  /** Expressions and statements that are evaluated. */
  readonly steps: number;
  /** Characters that any text may have. */
  readonly outputChars: number;
  /** How long it may run. */
  readonly milliseconds: number;
}

/** What a template wrote, and where in it `{% generation %}` blocks stand, in their order. */
export interface Rendered {
  readonly text: string;
  readonly generated: readonly (readonly [start: number, end: number])[];
}

/** How deep macros may call each other. */
const deepest = 100;

/** Names and what they stand for, with those around. */
class Scope {
  readonly names = new Map<string, Value>();
  readonly around: Scope | undefined;
  constructor(around?: Scope) {
    this.around = around;
  }

  get(name: string): Value {
    for (let scope: Scope | undefined = this; scope; scope = scope.around) {
      const value = scope.names.get(name);
      if (value !== undefined) return value;
    }
    return new Undefined(name);
  }
}

/** Text as it is written, in parts, and places of generation blocks in it. */
class Output {
  readonly parts: string[] = [];
  readonly generated: (readonly [number, number])[] = [];
  length = 0;
}

class Leave {
  readonly by: "break" | "continue";
  constructor(by: "break" | "continue") {
    this.by = by;
  }
}

/**
 * Run a template as Jinja 3.1 does in transformers' sandbox.
 * @throws {TemplateError} what Python would raise, what is not supported, and what goes beyond the limits.
 */
export function run(program: readonly Node[], globals: ReadonlyMap<string, Value>, limits: Limits): Rendered {
  const interpreter = new Interpreter(limits);
  const scope = new Scope();
  for (const [name, value] of globals) scope.names.set(name, value);
  const output = new Output();
  withBudget(limits, () => interpreter.block(program, new Scope(scope), output));
  return { text: output.parts.join(""), generated: output.generated };
}

class Interpreter {
  readonly #limits: Limits;
  readonly #end: number;
  #steps = 0;
  #depth = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
    this.#end = performance.now() + limits.milliseconds;
  }

  #step(): void {
    this.#steps++;
    if (this.#steps > this.#limits.steps) throw new TemplateError(`it ran for more than ${this.#limits.steps} steps`);
    if (this.#steps % 64 === 0 && performance.now() > this.#end)
      throw new TemplateError(`it ran for more than ${this.#limits.milliseconds / 1000} seconds`);
  }

  /** Statements; what `break` and `continue` leave is said. */
  block(nodes: readonly Node[], scope: Scope, output: Output): Leave | undefined {
    for (const node of nodes) {
      this.#step();
      const left = this.#statement(node, scope, output);
      if (left) return left;
    }
    return undefined;
  }

  #write(output: Output, text: string): void {
    output.parts.push(text);
    output.length += text.length;
    this.#measure(output.length);
  }

  #measure(length: number): void {
    if (length > this.#limits.outputChars)
      throw new TemplateError(`it wrote more than ${this.#limits.outputChars} characters`);
  }

  #capture(body: readonly Node[], scope: Scope): string {
    const output = new Output();
    this.block(body, scope, output);
    return output.parts.join("");
  }

  #statement(node: Node, scope: Scope, output: Output): Leave | undefined {
    switch (node.type) {
      case "text":
        this.#write(output, node.text);
        return undefined;
      case "print":
        this.#write(output, str(this.#value(node.value, scope)));
        return undefined;
      case "if":
        return this.block(truth(this.#value(node.test, scope)) ? node.body : node.otherwise, scope, output);
      case "for":
        return this.#loop(node, scope, output);
      case "set":
        this.#assign(node.target, this.#value(node.value, scope), scope);
        return undefined;
      case "capture":
        this.#assign(
          node.target,
          this.#filtered(this.#capture(node.body, new Scope(scope)), node.filters, scope),
          scope,
        );
        return undefined;
      case "macro":
        scope.names.set(node.name, this.#macro(node.name, node.parameters, node.body, scope));
        return undefined;
      case "callblock": {
        const caller = this.#macro("caller", node.parameters, node.body, scope);
        if (node.call.type !== "call") throw new TemplateError("a call block needs a call");
        this.#write(output, str(this.#call(node.call, scope, caller)));
        return undefined;
      }
      case "filterblock":
        this.#write(output, str(this.#filtered(this.#capture(node.body, new Scope(scope)), node.filters, scope)));
        return undefined;
      case "with": {
        const inner = new Scope(scope);
        const values = node.values.map(([target, value]) => [target, this.#value(value, scope)] as const);
        for (const [target, value] of values) this.#assign(target, value, inner);
        return this.block(node.body, inner, output);
      }
      case "generation": {
        const start = output.length;
        const left = this.block(node.body, new Scope(scope), output);
        output.generated.push([start, output.length]);
        return left;
      }
      case "break":
      case "continue":
        return new Leave(node.type);
    }
  }

  #loop(node: Extract<Node, { type: "for" }>, scope: Scope, output: Output): undefined {
    const over = this.#value(node.over, scope);
    const items = iterate(over).filter((item) => {
      if (node.test === undefined) return true;
      const inner = new Scope(scope);
      this.#assign(node.target, item, inner);
      return truth(this.#value(node.test, inner));
    });
    let completed = false;
    const changes: { last?: readonly Value[] } = {};
    const reads = namesIn(node.body).has("loop");
    for (const [i, item] of items.entries()) {
      this.#step();
      const inner = new Scope(scope);
      if (reads) inner.names.set("loop", loopOf(items, i, changes));
      this.#assign(node.target, item, inner);
      const left = this.block(node.body, inner, output);
      if (left === undefined) completed = true;
      else if (left.by === "break") break;
    }
    // As in Python's Jinja, which counts a turn when its body has come to its end.
    if (!completed) this.block(node.otherwise, new Scope(scope), output);
    return undefined;
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.type === "name") scope.names.set(target.name, value);
    else if (target.type === "field") {
      const owner = scope.get(target.name);
      if (!(owner instanceof Namespace && owner.isOpen))
        throw new TemplateError("cannot assign attribute on non-namespace object");
      owner.fields.set(target.field, value);
    } else {
      const items = iterate(value);
      if (items.length !== target.items.length)
        throw new TemplateError(
          items.length > target.items.length
            ? `too many values to unpack (expected ${target.items.length})`
            : `not enough values to unpack (expected ${target.items.length}, got ${items.length})`,
        );
      for (const [i, part] of target.items.entries()) this.#assign(part, items[i] as Value, scope);
    }
  }

  #macro(name: string, parameters: readonly Parameter[], body: readonly Node[], scope: Scope): Callable {
    return new Callable(name, (positional, named) => {
      if (++this.#depth > deepest) throw new TemplateError(`macros call each other more than ${deepest} levels deep`);
      const inner = new Scope(scope);
      const rest = new Map(named);
      const caller = rest.get("caller");
      if (!parameters.some((parameter) => parameter.name === "caller")) rest.delete("caller");
      for (const [i, parameter] of parameters.entries()) {
        const given = i < positional.length ? positional[i] : rest.get(parameter.name);
        if (i < positional.length && rest.has(parameter.name))
          throw new TemplateError(`macro '${name}' got multiple values for argument '${parameter.name}'`);
        rest.delete(parameter.name);
        const { initial } = parameter;
        inner.names.set(
          parameter.name,
          given !== undefined
            ? given
            : initial
              ? this.#value(initial, inner)
              : new Undefined(`parameter '${parameter.name}' was not provided`),
        );
      }
      const reads = namesIn(body);
      if (reads.has("varargs")) inner.names.set("varargs", new Tuple(positional.slice(parameters.length)));
      else if (positional.length > parameters.length)
        throw new TemplateError(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
      if (reads.has("kwargs")) inner.names.set("kwargs", new Map(rest));
      else if (rest.size > 0)
        throw new TemplateError(`macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`);
      if (reads.has("caller")) inner.names.set("caller", caller ?? new Undefined("No caller defined"));
      else if (caller)
        throw new TemplateError(`macro '${name}' was invoked with two values for the special caller argument.`);
      const text = this.#capture(body, inner);
      this.#depth--;
      return text;
    });
  }

  #filtered(text: Value, filters: readonly Filter[], scope: Scope): Value {
    return filters.reduce((value, { name, args }) => {
      const { positional, named } = this.#args(args, scope);
      return filterNamed(name)(value, positional, named);
    }, text);
  }

  #args(args: Args, scope: Scope): { readonly positional: readonly Value[]; readonly named: Map<string, Value> } {
    const positional = args.positional.map((arg) => this.#value(arg, scope));
    if (args.list) positional.push(...iterate(this.#value(args.list, scope)));
    const named = new Map(args.named.map(([name, arg]) => [name, this.#value(arg, scope)]));
    if (args.dict) {
      const given = this.#value(args.dict, scope);
      if (!(given instanceof Map)) throw new TemplateError("argument after ** must be a mapping");
      for (const [name, value] of given) {
        if (named.has(str(name))) throw new TemplateError(`got multiple values for keyword argument '${str(name)}'`);
        named.set(str(name), value);
      }
    }
    return { positional, named };
  }

  #call(expr: Extract<Expr, { type: "call" }>, scope: Scope, caller?: Callable): Value {
    const callee = this.#value(expr.callee, scope);
    const { positional, named } = this.#args(expr.args, scope);
    if (caller) named.set("caller", caller);
    if (callee instanceof Undefined) throw isUndefined(callee);
    if (!(callee instanceof Callable)) throw new TemplateError(`'${typeName(callee)}' object is not callable`);
    return callee.call(positional, named);
  }

  #value(expr: Expr, scope: Scope): Value {
    this.#step();
    const value = this.#evaluate(expr, scope);
    if (typeof value === "string") this.#measure(value.length);
    return value;
  }

  #evaluate(expr: Expr, scope: Scope): Value {
    switch (expr.type) {
      case "const":
        return expr.value;
      case "name":
        return scope.get(expr.name);
      case "list":
        return expr.items.map((item) => this.#value(item, scope));
      case "tuple":
        return new Tuple(expr.items.map((item) => this.#value(item, scope)));
      case "dict":
        return dictOf(expr.entries.map(([key, item]) => [this.#value(key, scope), this.#value(item, scope)] as const));
      case "attribute":
        return attributeOf(this.#value(expr.of, scope), expr.name);
      case "item": {
        const of = this.#value(expr.of, scope);
        const key = this.#value(expr.key, scope);
        if (of instanceof Undefined) throw isUndefined(of);
        const found = of instanceof Namespace ? undefined : itemOf(of, key);
        // Python's Jinja looks for an attribute of that name next.
        if (found !== undefined) return found;
        return typeof key === "string" ? attributeOf(of, key) : new Undefined(str(key));
      }
      case "slice": {
        const of = this.#value(expr.of, scope);
        if (of instanceof Undefined) throw isUndefined(of);
        return slice(
          of,
          expr.bounds.map((bound) => bound && this.#value(bound, scope)),
        );
      }
      case "call":
        return this.#call(expr, scope);
      case "filter":
        return this.#filtered(this.#value(expr.of, scope), [expr], scope);
      case "test": {
        const { positional, named } = this.#args(expr.args, scope);
        if (named.size > 0) throw new TemplateError(`the test ${expr.name} takes no arguments by name`);
        return testNamed(expr.name)(this.#value(expr.of, scope), positional);
      }
      case "not":
        return !truth(this.#value(expr.of, scope));
      case "negative":
      case "positive": {
        const value = this.#value(expr.of, scope);
        const number = asNumber(value);
        if (number === undefined)
          throw new TemplateError(
            `bad operand type for unary ${expr.type === "negative" ? "-" : "+"}: '${typeName(value)}'`,
          );
        return expr.type === "negative" ? -number : number;
      }
      case "and": {
        const left = this.#value(expr.left, scope);
        return truth(left) ? this.#value(expr.right, scope) : left;
      }
      case "or": {
        const left = this.#value(expr.left, scope);
        return truth(left) ? left : this.#value(expr.right, scope);
      }
      case "condition":
        if (truth(this.#value(expr.test, scope))) return this.#value(expr.yes, scope);
        return expr.no ? this.#value(expr.no, scope) : new Undefined("the inline if-expression has no else");
      case "join": {
        const values = expr.items.map((item) => this.#value(item, scope));
        if (values.some((value) => value instanceof Safe)) throw notForSafe();
        return joined(values.map(str), "");
      }
      case "compare": {
        let left = this.#value(expr.first, scope);
        for (const [operator, next] of expr.rest) {
          const right = this.#value(next, scope);
          if (!compared(operator, left, right)) return false;
          left = right;
        }
        return true;
      }
      case "binary":
        return arithmetic(expr.operator, this.#value(expr.left, scope), this.#value(expr.right, scope), this.#limits);
    }
  }
}

function isUndefined({ name }: Undefined): TemplateError {
  return new TemplateError(/^\w+$/.test(name) ? `'${name}' is undefined` : name);
}

/** What stands behind a dot: an attribute, and else an item. */
function attributeOf(of: Value, name: string): Value {
  if (of instanceof Undefined) throw isUndefined(of);
  if (of instanceof Namespace) return orUndefined(of.fields.get(name), name);
  return orUndefined(methodOf(of, name) ?? (of instanceof Map ? of.get(name) : undefined), name);
}

function compared(operator: string, left: Value, right: Value): boolean {
  if (operator === "==") return equal(left, right);
  if (operator === "!=") return !equal(left, right);
  if (operator === "in") return contains(right, left);
  if (operator === "not in") return !contains(right, left);
  for (const value of [left, right]) if (value instanceof Undefined) throw isUndefined(value);
  const order = compare(left, right, operator);
  if (operator === "<") return order < 0;
  if (operator === "<=") return order <= 0;
  return operator === ">" ? order > 0 : order >= 0;
}

function arithmetic(operator: string, left: Value, right: Value, limits: Limits): Value {
  for (const value of [left, right]) {
    if (value instanceof Undefined) throw isUndefined(value);
    if (value instanceof Safe) throw notForSafe();
  }
  if (operator === "+") {
    if (typeof left === "string" && typeof right === "string") {
      roomForText(left.length + right.length);
      return left + right;
    }
    const [ours, theirs] = [left, right].map((value) => (value instanceof Tuple ? value.items : value));
    if (Array.isArray(ours) && Array.isArray(theirs) && left instanceof Tuple === right instanceof Tuple) {
      roomForItems(ours.length + theirs.length);
      return left instanceof Tuple ? new Tuple([...ours, ...theirs]) : [...ours, ...theirs];
    }
    if (typeof left === "string" || (typeof right === "string" && Array.isArray(left)))
      throw new TemplateError(`can only concatenate ${typeName(left)} (not "${typeName(right)}") to ${typeName(left)}`);
  }
  if (operator === "%" && typeof left === "string") return percent(left, right);
  const [x, y] = [asNumber(left), asNumber(right)];
  if (operator === "*") {
    const repeated =
      typeof y === "bigint" ? times(left, y, limits) : typeof x === "bigint" ? times(right, x, limits) : undefined;
    if (repeated !== undefined) return repeated;
  }
  if (x === undefined || y === undefined)
    throw new TemplateError(
      `unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`,
    );
  return typeof x === "bigint" && typeof y === "bigint"
    ? ofIntegers(operator, x, y)
    : ofFloats(operator, Number(x), Number(y));
}

function times(value: Value, count: bigint, limits: Limits): Value | undefined {
  const repeats = Math.max(0, Number(count));
  const bounded = (length: number): number => {
    if (length * repeats > limits.outputChars)
      throw new TemplateError(`it wrote more than ${limits.outputChars} characters`);
    if (typeof value !== "string") roomForItems(length * repeats);
    return length === 0 ? 0 : repeats;
  };
  if (typeof value === "string") return value.repeat(bounded(value.length));
  if (Array.isArray(value)) return Array.from({ length: bounded(value.length) }, () => value).flat();
  if (value instanceof Tuple)
    return new Tuple(Array.from({ length: bounded(value.items.length) }, () => value.items).flat());
  return undefined;
}

function ofIntegers(operator: string, x: bigint, y: bigint): Value {
  if (["/", "//", "%"].includes(operator) && y === 0n) throw new TemplateError("division by zero");
  const quotient = (): bigint => (x % y !== 0n && x < 0n !== y < 0n ? x / y - 1n : x / y);
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return checkedSize(x * y);
    case "/":
      return Number(x) / Number(y);
    case "//":
      return quotient();
    case "%":
      return x - quotient() * y;
    default:
      if (y < 0n) return ofFloats("**", Number(x), Number(y));
      if (y > 10_000n) throw new TemplateError("an exponent above 10000 is refused");
      // Before it is computed: that may take long.
      if (x.toString(16).length * 4 * Number(y) > 100_000) throw new TemplateError("a power has too many digits");
      return checkedSize(x ** y);
  }
}

/** Whole numbers of more than some thousand digits serve nothing. */
function checkedSize(value: bigint): bigint {
  if (value > 2n ** 20000n || value < -(2n ** 20000n)) throw new TemplateError("a whole number has too many digits");
  return value;
}

function ofFloats(operator: string, x: number, y: number): Value {
  if (["/", "//", "%"].includes(operator) && y === 0) throw new TemplateError("float division by zero");
  switch (operator) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return x * y;
    case "/":
      return x / y;
    case "//":
      return Math.floor(x / y);
    case "%":
      return x - Math.floor(x / y) * y;
    default: {
      if (x === 0 && y < 0) throw new TemplateError("0.0 cannot be raised to a negative power");
      const power = x ** y;
      if (Number.isNaN(power) || !Number.isFinite(power)) throw new TemplateError("the power is no finite number");
      return power;
    }
  }
}

/** What `loop` is in a turn of a loop. */
function loopOf(items: readonly Value[], i: number, changes: { last?: readonly Value[] }): Namespace {
  const fields: Readonly<Record<string, Value>> = {
    index: BigInt(i + 1),
    index0: BigInt(i),
    revindex: BigInt(items.length - i),
    revindex0: BigInt(items.length - i - 1),
    first: i === 0,
    last: i === items.length - 1,
    length: BigInt(items.length),
    previtem: orUndefined(items[i - 1], "there is no previous item"),
    nextitem: orUndefined(items[i + 1], "there is no next item"),
    depth: 1n,
    depth0: 0n,
    cycle: new Callable("loop.cycle", (values) => {
      if (values.length === 0) throw new TemplateError("no items for cycling given");
      return values[i % values.length] as Value; // one of them
    }),
    changed: new Callable("loop.changed", (values) => {
      const same =
        changes.last?.length === values.length && values.every((value, j) => equal(value, changes.last?.[j] as Value));
      changes.last = values;
      return !same;
    }),
  };
  return new Namespace(new Map(Object.entries(fields)), false);
}

/** Every name that some statements read, roughly: macros take `varargs`, `kwargs` and `caller` where they read them. */
function namesIn(body: readonly Node[]): ReadonlySet<string> {
  const known = readNames.get(body);
  if (known) return known;
  const names = new Set<string>();
  const visit = (part: unknown): void => {
    if (Array.isArray(part)) part.forEach(visit);
    else if (typeof part === "object" && part !== null) {
      if ("type" in part && part.type === "name" && "name" in part) names.add(String(part.name));
      else Object.values(part).forEach(visit);
    }
  };
  visit(body);
  readNames.set(body, names);
  return names;
}

const readNames = new WeakMap<readonly Node[], ReadonlySet<string>>();
