import { nearest, TuneError } from "../errors.ts";
import { dora } from "./dora.ts";
import { type Fields, resolveFields } from "./fields.ts";
import { full } from "./full.ts";
import { lora } from "./lora.ts";
import type { Method } from "./method.ts";

// A method's config is its own; here methods are only asked for what every method has, with the config they resolved.
type AnyMethod = Method<Readonly<Record<string, number | boolean>>>;
const all = [lora, dora, full] as unknown as readonly AnyMethod[]; // see above: `resolveFields` makes the config of each

/** Every method by name. Adding one is one line above. */
export const methods: ReadonlyMap<string, AnyMethod> = new Map(all.map((method) => [method.name, method]));

/** A method with its options settled. */
export interface MethodChoice {
  readonly method: AnyMethod;
  readonly config: Readonly<Record<string, number | boolean>>;
}

/**
 * Choose a method by name and settle its options.
 * @throws {TuneError} `unknown-method`, or `bad-option` listing every problem.
 */
export function chooseMethod(name: string, options: Readonly<Record<string, number | boolean>> = {}): MethodChoice {
  const method = methods.get(name);
  if (!method) {
    const near = nearest(name, methods.keys());
    throw new TuneError("unknown-method", `There is no method "${name}".`, {
      at: "method",
      fix: `use one of ${[...methods.keys()].join(", ")}${near[0] ? ` (nearest: ${near[0]})` : ""}`,
    });
  }
  return { method, config: resolveFields(method.name, method.fields as Fields<typeof options>, options) };
}
