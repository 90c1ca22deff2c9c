/**
 * Chat templates as Python's Jinja 3.1 renders them in the sandbox that transformers sets up: a parser, and an interpreter
 * with Python's values. `@huggingface/jinja`, which pages render with, keeps JavaScript's instead: `lstrip("\n")` strips all
 * white space there, integers lose digits past 2^53, `20.0` is written `20`, `None` as nothing, a list as JSON; chained
 * comparisons and what a loop sets mean something else. `tests/golden/make_jinja.py` holds both against Python.
 */
export { argumentsOf } from "./arguments.ts";
export { roomForItems } from "./budget.ts";
export { type Limits, type Rendered, run } from "./evaluate.ts";
export { parseTemplate } from "./parse.ts";
export { Callable, Namespace, str, TemplateError, Tuple, toValue, type Value, View } from "./values.ts";
