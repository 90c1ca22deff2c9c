import { TemplateError, type Value } from "./values.ts";

/**
 * What a function is given, by its parameters' order.
 * @throws {TemplateError} for more, for names it does not have, and for what is given twice.
 */
export function argumentsOf(
  name: string,
  parameters: readonly string[],
  positional: readonly Value[],
  named: ReadonlyMap<string, Value>,
): readonly (Value | undefined)[] {
  if (positional.length > parameters.length)
    throw new TemplateError(`${name}() takes at most ${parameters.length} arguments (${positional.length} given)`);
  for (const [given] of named) {
    const at = parameters.indexOf(given);
    if (at < 0) throw new TemplateError(`${name}() got an unexpected keyword argument '${given}'`);
    if (at < positional.length) throw new TemplateError(`${name}() got multiple values for argument '${given}'`);
  }
  return parameters.map((parameter, i) => (i < positional.length ? positional[i] : named.get(parameter)));
}
