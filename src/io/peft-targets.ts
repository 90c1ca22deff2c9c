import { TuneError } from "../errors.ts";
import { compilePattern } from "../pattern.ts";
import type { JsonObject } from "./json.ts";

/**
 * Which modules a PEFT config adapts: `target_modules` but `exclude_modules`, in `layers_to_transform`, counted as
 * `layers_pattern` says. Undefined where it names no targets. `all-linear` is neither the output layer nor embeddings.
 * @throws {TuneError} `peft-bad-config` for an expression that cannot be followed.
 */
export function targetedByPeft(
  config: JsonObject,
  outputModule: string,
  at: string,
  embeddings: ReadonlySet<string> = new Set(),
): ((module: string) => boolean) | undefined {
  const { target_modules: targets, exclude_modules: excluded, layers_to_transform: layers } = config;
  const targeted =
    targets === "all-linear"
      ? (module: string) => module !== outputModule && !embeddings.has(module)
      : matcher(targets, { key: "target_modules", at });
  const left = isAbsent(excluded) ? () => false : matcher(excluded, { key: "exclude_modules", at });
  if (!targeted || !left) return undefined;
  const numbers = Array.isArray(layers) ? layers : typeof layers === "number" ? [layers] : [];
  const layerOf = layerFinder(config, at);
  const inLayers = (module: string): boolean => {
    if (numbers.length === 0) return true;
    const layer = layerOf(module);
    return layer !== undefined && numbers.includes(layer);
  };
  return (module) => targeted(module) && !left(module) && inLayers(module);
}

interface Place {
  readonly key: string;
  readonly at: string;
}

/** A list of ends of paths, or one expression for the whole path. */
function matcher(names: unknown, place: Place): ((module: string) => boolean) | undefined {
  if (Array.isArray(names)) return (module) => names.some((name) => `.${module}`.endsWith(`.${String(name)}`));
  if (typeof names !== "string") return undefined;
  return followed(names, names, place);
}

/** An expression of the config's, matched as PEFT matches it. */
function followed(expression: string, spelt: string, { key, at }: Place): (module: string) => boolean {
  const refuse = (cause: unknown): TuneError => {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const fix = `list the modules instead of an expression in ${key}`;
    return new TuneError("peft-bad-config", `${key} "${spelt.slice(0, 200)}" cannot be followed: ${reason}.`, {
      at,
      fix,
      cause,
    });
  };
  try {
    const pattern = compilePattern(expression);
    return (module) => {
      try {
        return pattern.matches(module);
      } catch (cause) {
        throw refuse(cause);
      }
    };
  } catch (cause) {
    throw cause instanceof TuneError ? cause : refuse(cause);
  }
}

/** The layer that a module is in: the number after one of the names in `layers_pattern`, else the first between dots. */
function layerFinder(config: JsonObject, at: string): (module: string) => number | undefined {
  const { layers_pattern: given } = config;
  const patterns = (typeof given === "string" ? [given] : Array.isArray(given) ? given : []).filter(
    (pattern): pattern is string => typeof pattern === "string" && pattern !== "",
  );
  const before = patterns.map((pattern) => followed(`.*\\.${pattern}`, pattern, { key: "layers_pattern", at }));
  return (module) => {
    for (const found of module.matchAll(/\.(\d+)(?=\.)/g)) {
      const ahead = `.${module.slice(0, found.index)}`;
      if (before.length === 0 || before.some((matches) => matches(ahead))) return Number(found[1]);
    }
    return undefined;
  };
}

function isAbsent(value: unknown): boolean {
  return value === null || value === undefined;
}
