import { nearest, TuneError } from "../errors.ts";
import { compilePattern, type Pattern } from "../pattern.ts";

/**
 * Linear modules and embeddings, named as in PEFT: names matched against the end of module paths, a regular expression matched against
 * whole paths, or every linear layer but the output layer.
 */
export type NamedModules = "all-linear" | RegExp | readonly string[];

/** Some of the modules that are named. */
export interface SelectedModules {
  readonly modules: NamedModules;
  /** Left out of them (PEFT's `exclude_modules`). */
  readonly exclude?: RegExp | readonly string[];
  /** In these layers alone, counted from 0 (PEFT's `layers_to_transform`). */
  readonly layers?: readonly number[];
}

/** Which linear modules an adapter attaches to. */
export type TargetModules = NamedModules | SelectedModules;

/** Read the command-line and PEFT spelling: `all-linear`, `q_proj,v_proj`, or `/regex/`. */
export function parseTargets(text: string): NamedModules {
  if (text === "all-linear") return text;
  const pattern = /^\/(.*)\/$/.exec(text)?.[1];
  if (pattern === undefined)
    return text
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "");
  compile(pattern, false);
  try {
    return new RegExp(pattern);
  } catch (error) {
    throw badPattern(pattern, error);
  }
}

/** An expression for whole paths. */
function compile(source: string, ignoreCase: boolean): Pattern {
  const guarded = <T>(run: () => T): T => {
    try {
      return run();
    } catch (error) {
      throw badPattern(source, error);
    }
  };
  const pattern = guarded(() => compilePattern(source, { ignoreCase }));
  return { matches: (name) => guarded(() => pattern.matches(name)) };
}

function badPattern(source: string, cause: unknown): TuneError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new TuneError("bad-target-modules", `/${source}/ cannot be used: ${reason}.`, {
    at: "target modules",
    fix: "escape special characters, or list names separated by commas",
    cause,
  });
}

/** Targets as text, for people and for comparing. */
export function showTargets(targets: TargetModules): string {
  if (targets instanceof RegExp) return `/${targets.source}/`;
  if (typeof targets === "string") return targets;
  if (!("modules" in targets)) return targets.join(", ");
  const { modules, exclude, layers } = targets;
  const without = exclude === undefined ? "" : ` without ${showTargets(exclude)}`;
  return `${showTargets(modules)}${without}${layers === undefined ? "" : ` in layers ${layers.join(", ")}`}`;
}

/**
 * The modules that `targets` names, in model order. Those in `embeddings` are no linear layers, and are named alone.
 * @throws {TuneError} `unknown-target-modules` listing each name that matches nothing and the nearest that would.
 */
export function chooseModules(
  targets: TargetModules,
  modules: readonly string[],
  outputModule: string,
  embeddings: ReadonlySet<string> = new Set(),
): readonly string[] {
  if (typeof targets === "object" && "modules" in targets) return select(targets, modules, outputModule, embeddings);
  const eligible = modules.filter((module) => module !== outputModule && !embeddings.has(module));
  if (targets === "all-linear") return eligible;
  if (targets instanceof RegExp) {
    const whole = compile(targets.source, targets.flags.includes("i"));
    const chosen = modules.filter((module) => whole.matches(module));
    if (chosen.length > 0) return chosen;
    throw unknown([targets.source], modules, embeddings);
  }
  const missing = targets.filter((name) => !modules.some((module) => endsWith(module, name)));
  if (missing.length > 0 || targets.length === 0) throw unknown(missing, modules, embeddings);
  return modules.filter((module) => targets.some((name) => endsWith(module, name)));
}

const endsWith = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`);

/** Those of the modules that the targets name, by the ends of their paths or by an expression, if any. */
export function matchingModules(targets: TargetModules, modules: readonly string[]): readonly string[] {
  if (targets === "all-linear") return [];
  if (targets instanceof RegExp) {
    const whole = compile(targets.source, targets.flags.includes("i"));
    return modules.filter((module) => whole.matches(module));
  }
  if (!("modules" in targets)) return modules.filter((module) => targets.some((name) => endsWith(module, name)));
  const { modules: named, exclude = [] } = targets;
  const excluded = new Set(matchingModules(exclude, modules));
  return targets.layers ? [] : matchingModules(named, modules).filter((module) => !excluded.has(module));
}

function select(
  { modules: named, exclude, layers }: SelectedModules,
  modules: readonly string[],
  outputModule: string,
  embeddings: ReadonlySet<string>,
): readonly string[] {
  const excluded = new Set(exclude === undefined ? [] : chooseModules(exclude, modules, outputModule, embeddings));
  const numbers = new Set(modules.map(layerOf).filter((layer) => layer !== undefined));
  const missing = layers?.filter((layer) => !numbers.has(layer)) ?? [];
  const chosen = chooseModules(named, modules, outputModule, embeddings).filter((module) => {
    const layer = layerOf(module);
    return !excluded.has(module) && (layers === undefined || (layer !== undefined && layers.includes(layer)));
  });
  if (missing.length === 0 && chosen.length > 0) return chosen;
  throw new TuneError(
    "unknown-target-modules",
    missing.length > 0
      ? `The model has no layer ${missing.slice(0, 5).join(", ")}${missing.length > 5 ? ", …" : ""}.`
      : "The exclusions leave no module to attach to.",
    {
      at: "target modules",
      fix: missing.length > 0 ? `its layers are 0 to ${Math.max(...numbers)}` : "exclude fewer modules or choose more",
    },
  );
}

/** The first number in a module's path. */
function layerOf(module: string): number | undefined {
  const found = /(?:^|\.)(\d+)(?:\.|$)/.exec(module)?.[1];
  return found === undefined ? undefined : Number(found);
}

function unknown(missing: readonly string[], modules: readonly string[], embeddings: ReadonlySet<string>): TuneError {
  const kind = embeddings.size > 0 ? "linear layer or embedding" : "linear layer";
  const ends = [...new Set(modules.map((module) => module.split(".").at(-1) ?? module))];
  const what =
    missing.length === 0
      ? "No target modules are given."
      : missing.map((name) => {
          const near = nearest(name.split(".").at(-1) ?? name, ends);
          return `No ${kind} is called "${name}"${near.length > 0 ? ` (nearest: ${near.join(", ")})` : ""}.`;
        });
  return new TuneError("unknown-target-modules", what, {
    at: "target modules",
    fix: `choose among ${ends.join(", ")}, or use "all-linear"`,
  });
}
