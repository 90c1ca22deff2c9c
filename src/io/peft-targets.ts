import type { JsonObject } from "./json.ts";

/**
 * Which modules a PEFT config adapts: `target_modules` but `exclude_modules`, in `layers_to_transform`. Undefined where it
 * does not say so in words that can be followed here (a Python expression that JavaScript does not have).
 */
export function targetedByPeft(config: JsonObject, outputModule: string): ((module: string) => boolean) | undefined {
  const { target_modules: targets, exclude_modules: excluded, layers_to_transform: layers } = config;
  const targeted = targets === "all-linear" ? (module: string) => module !== outputModule : matcher(targets);
  const left = excluded === null || excluded === undefined ? () => false : matcher(excluded);
  if (!targeted || !left) return undefined;
  const numbers = Array.isArray(layers) ? layers : typeof layers === "number" ? [layers] : [];
  const inLayers = (module: string): boolean => {
    const layer = /\.(\d+)\./.exec(module)?.[1];
    return numbers.length === 0 || (layer !== undefined && numbers.includes(Number(layer)));
  };
  return (module) => targeted(module) && !left(module) && inLayers(module);
}

/** A list of ends of paths, or one expression for the whole path. */
function matcher(names: unknown): ((module: string) => boolean) | undefined {
  if (Array.isArray(names)) return (module) => names.some((name) => `.${module}`.endsWith(`.${String(name)}`));
  // Expressions come from strangers: a repetition of a repetition could take forever to match.
  if (typeof names !== "string" || names.length > 1000 || /[*+}]\)[*+{]/.test(names)) return undefined;
  try {
    const whole = new RegExp(`^(?:${names})$`);
    return (module) => whole.test(module);
  } catch {
    return undefined;
  }
}
