import { nearest, TuneError } from "../errors.ts";
import { type Fields, resolveFields } from "../fields.ts";
import { compilePattern, type Pattern } from "../pattern.ts";
import { adalora } from "./adalora.ts";
import { alpha } from "./alpha.ts";
import { bottleneck, compacter, compacterPlusPlus, phm } from "./compacter.ts";
import { dora } from "./dora.ts";
import { full } from "./full.ts";
import type { InPlace } from "./in-place.ts";
import { lora } from "./lora.ts";
import type { Method } from "./method.ts";
import { paca } from "./paca.ts";

// A method's config is its own; here methods are only asked for what every method has, with the config they resolved.
type AnyMethod = Method<MethodConfig>;
const all = [
  lora,
  dora,
  adalora,
  paca,
  alpha,
  compacter,
  compacterPlusPlus,
  phm,
  bottleneck,
  full,
] as unknown as readonly AnyMethod[]; // see above: `resolveFields` makes the config of each

/** Every method by name. Adding one is one line above. */
export const methods: ReadonlyMap<string, AnyMethod> = new Map(all.map((method) => [method.name, method]));

/** A method with its options settled. */
export interface MethodChoice {
  readonly method: AnyMethod;
  readonly config: MethodConfig;
  /** Options that some modules have otherwise. */
  readonly patterns?: Patterns;
  /** Weights that are trained where they stand besides. */
  readonly inPlace?: InPlace;
}

/** A method's options, all of them settled. */
export type MethodConfig = Readonly<Record<string, number | boolean | string>>;

/**
 * An option's values by module: the first pattern that matches the end of a module's path decides, as PEFT's
 * `rank_pattern` and `alpha_pattern`.
 */
export type Patterns = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** The options of a method at one module. */
export function configAt({ config, patterns }: MethodChoice, module: string): MethodConfig {
  if (patterns === undefined) return config;
  const own = Object.entries(patterns).flatMap(([option, values]) => {
    const found = Object.entries(values).find(([pattern]) => expressionOf(pattern).matches(module));
    return found ? [[option, found[1]] as const] : [];
  });
  return { ...config, ...Object.fromEntries(own) };
}

/**
 * Check that every pattern decides something.
 * @throws {TuneError} `unknown-target-modules` naming the first that matches none of the modules.
 */
export function checkPatterns({ patterns = {} }: MethodChoice, modules: readonly string[]): void {
  for (const [option, values] of Object.entries(patterns)) {
    const idle = Object.keys(values).find(
      (pattern) => !modules.some((module) => expressionOf(pattern).matches(module)),
    );
    if (idle === undefined) continue;
    const ends = [...new Set(modules.map((module) => module.split(".").at(-1) ?? module))];
    throw new TuneError("unknown-target-modules", `No tuned module is called "${idle}".`, {
      at: `${option} by module`,
      fix: `name the ends of tuned modules: ${ends.join(", ")}`,
    });
  }
}

/** Patterns come with adapters of strangers: see `pattern.ts`. */
function expressionOf(pattern: string): Pattern {
  const guarded = <T>(run: () => T): T => {
    try {
      return run();
    } catch (cause) {
      throw new TuneError(
        "bad-option",
        `The module pattern "${pattern.slice(0, 200)}" cannot be used: ${cause instanceof Error ? cause.message : String(cause)}.`,
        {
          at: "patterns of modules",
          fix: "name the end of a module's path, such as down_proj or layers.0.mlp.up_proj",
          cause,
        },
      );
    }
  };
  const compiled = guarded(() => compilePattern(`(.*\\.)?(${pattern})`));
  return { matches: (module) => guarded(() => compiled.matches(module)) };
}

/**
 * Choose a method by name and settle its options.
 * @throws {TuneError} `unknown-method`, or `bad-option` listing every problem.
 */
export function chooseMethod(
  name: string,
  options: Partial<MethodConfig> = {},
  patterns: Patterns = {},
  inPlace: Partial<InPlace> = {},
): MethodChoice {
  const method = methods.get(name);
  if (!method) {
    const near = nearest(name, methods.keys());
    throw new TuneError("unknown-method", `There is no method "${name}".`, {
      at: "method",
      fix: `use one of ${[...methods.keys()].join(", ")}${near[0] ? ` (nearest: ${near[0]})` : ""}`,
    });
  }
  const resolve = (given: Partial<MethodConfig>): MethodConfig =>
    resolveFields(method.name, method.fields as Fields<MethodConfig>, given as MethodConfig, methods.values()); // checked field by field
  for (const [option, values] of Object.entries(patterns)) {
    for (const [pattern, value] of Object.entries(values)) {
      expressionOf(pattern);
      try {
        resolve({ ...options, [option]: value });
      } catch (error) {
        if (!(error instanceof TuneError)) throw error;
        const { code, what, fix } = error;
        throw new TuneError(code, what.split("\n"), { at: `${option} pattern`, ...(fix ? { fix } : {}), cause: error });
      }
    }
  }
  const used = Object.values(patterns).some((values) => Object.keys(values).length > 0);
  const { modules = [], biases = "none", tokens = {} } = inPlace;
  const ofTokens = Object.keys(tokens).length > 0;
  const trained = modules.length > 0 || biases !== "none" || ofTokens;
  if (trained && method.attaches === "weight") {
    throw new TuneError(
      "bad-option",
      `${method.name} tuning trains every weight in place already, so that modules to save and biases would change nothing.`,
      {
        at: method.name,
        fix: "leave out the modules and biases to train, or choose a method that leaves the weights alone",
      },
    );
  }
  if (ofTokens && method.peft?.tokenRows !== true) {
    const able = [...methods.values()].filter(({ peft }) => peft?.tokenRows === true).map(({ name: other }) => other);
    throw new TuneError(
      "bad-option",
      `Adapters of ${method.name} have no place for the rows of single tokens, such as new tokens.`,
      {
        at: method.name,
        fix: `use ${able.join(", ")}, or full`,
      },
    );
  }
  return {
    method,
    config: resolve(options),
    ...(used ? { patterns } : {}),
    ...(trained ? { inPlace: { modules, biases, ...(ofTokens ? { tokens } : {}) } } : {}),
  };
}
