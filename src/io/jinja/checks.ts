import {
  asNumber,
  Callable,
  compare,
  equal,
  iterate,
  str,
  TemplateError,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

type Test = (value: Value, args: readonly Value[]) => boolean;

function remainder(value: Value, by: bigint): bigint | number {
  const number = asNumber(value);
  if (number === undefined)
    throw new TemplateError(`unsupported operand type(s) for %: '${typeName(value)}' and 'int'`);
  return typeof number === "bigint" ? ((number % by) + by) % by : ((number % Number(by)) + Number(by)) % Number(by);
}

const other = (args: readonly Value[]): Value => {
  const [value] = args;
  if (value === undefined) throw new TemplateError("the test needs an argument");
  return value;
};
const same: Test = (value, args) => equal(value, other(args));
const isSequence = (value: Value): boolean =>
  typeof value === "string" ||
  Array.isArray(value) ||
  value instanceof Map ||
  value instanceof Tuple ||
  value instanceof Undefined ||
  (value instanceof View && value.kind === "range");

/** Whether an item is in a value. @throws {TemplateError} for values that hold nothing. */
export function contains(value: Value, item: Value): boolean {
  if (typeof value === "string") {
    if (typeof item !== "string")
      throw new TemplateError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    return value.includes(item);
  }
  if (value === null || typeof value === "boolean" || asNumber(value) !== undefined)
    throw new TemplateError(`argument of type '${typeName(value)}' is not iterable`);
  return iterate(value).some((part) => equal(part, item));
}

const greater: Test = (value, args) => compare(value, other(args), ">") > 0;
const atLeast: Test = (value, args) => compare(value, other(args), ">=") >= 0;
const less: Test = (value, args) => compare(value, other(args), "<") < 0;
const atMost: Test = (value, args) => compare(value, other(args), "<=") <= 0;

/** The tests of Jinja 3.1, by name. */
const tests: Readonly<Record<string, Test>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => value instanceof Callable,
  defined: (value) => !(value instanceof Undefined),
  undefined: (value) => value instanceof Undefined,
  divisibleby: (value, args) => {
    const by = other(args);
    if (typeof by !== "bigint" || by === 0n) throw new TemplateError("divisibleby needs a whole number");
    return Number(remainder(value, by)) === 0;
  },
  even: (value) => Number(remainder(value, 2n)) === 0,
  odd: (value) => Number(remainder(value, 2n)) === 1,
  eq: same,
  equalto: same,
  "==": same,
  ne: (value, args) => !same(value, args),
  "!=": (value, args) => !same(value, args),
  gt: greater,
  greaterthan: greater,
  ">": greater,
  ge: atLeast,
  ">=": atLeast,
  lt: less,
  lessthan: less,
  "<": less,
  le: atMost,
  "<=": atMost,
  true: (value) => value === true,
  false: (value) => value === false,
  none: (value) => value === null,
  float: (value) => typeof value === "number",
  integer: (value) => typeof value === "bigint",
  number: (value) => asNumber(value) !== undefined,
  string: (value) => typeof value === "string",
  mapping: (value) => value instanceof Map,
  sequence: isSequence,
  iterable: (value) => isSequence(value) || value instanceof View,
  in: (value, args) => contains(other(args), value),
  sameas: (value, args) => value === other(args),
  lower: (value) => /\p{L}/u.test(str(value)) && str(value) === str(value).toLowerCase(),
  upper: (value) => /\p{L}/u.test(str(value)) && str(value) === str(value).toUpperCase(),
};

/** A test by its name. @throws {TemplateError} for one that Jinja does not have, or that is not supported. */
export function testNamed(name: string): Test {
  const found = Object.hasOwn(tests, name) ? tests[name] : undefined;
  if (found) return found;
  throw new TemplateError(`the test "${name}" is unknown, or not supported`);
}
