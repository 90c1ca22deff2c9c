import { nearest, TuneError } from "../errors.ts";

/**
 * Which linear modules an adapter attaches to, as in PEFT: names matched against the end of module paths, a regular
 * expression matched against whole paths, or every linear layer but the output layer.
 */
export type TargetModules = "all-linear" | RegExp | readonly string[];

/** Read the command-line and PEFT spelling: `all-linear`, `q_proj,v_proj`, or `/regex/`. */
export function parseTargets(text: string): TargetModules {
  if (text === "all-linear") return text;
  const pattern = /^\/(.*)\/$/.exec(text)?.[1];
  if (pattern === undefined)
    return text
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "");
  try {
    return new RegExp(pattern);
  } catch (error) {
    throw new TuneError("bad-target-modules", `/${pattern}/ is not a regular expression.`, {
      at: "target modules",
      fix: "escape special characters, or list names separated by commas",
      cause: error,
    });
  }
}

/**
 * The modules that `targets` names, in model order.
 * @throws {TuneError} `unknown-target-modules` listing each name that matches nothing and the nearest that would.
 */
export function chooseModules(
  targets: TargetModules,
  modules: readonly string[],
  outputModule: string,
): readonly string[] {
  const eligible = modules.filter((module) => module !== outputModule);
  if (targets === "all-linear") return eligible;
  if (targets instanceof RegExp) {
    const whole = new RegExp(`^(?:${targets.source})$`, targets.flags.replace(/[gy]/g, ""));
    const chosen = modules.filter((module) => whole.test(module));
    if (chosen.length > 0) return chosen;
    throw unknown([targets.source], modules);
  }
  const matches = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`);
  const missing = targets.filter((name) => !modules.some((module) => matches(module, name)));
  if (missing.length > 0 || targets.length === 0) throw unknown(missing, modules);
  return modules.filter((module) => targets.some((name) => matches(module, name)));
}

function unknown(missing: readonly string[], modules: readonly string[]): TuneError {
  const ends = [...new Set(modules.map((module) => module.split(".").at(-1) ?? module))];
  const what =
    missing.length === 0
      ? "No target modules are given."
      : missing
          .map((name) => {
            const near = nearest(name.split(".").at(-1) ?? name, ends);
            return `No linear layer is called "${name}"${near.length > 0 ? ` (nearest: ${near.join(", ")})` : ""}.`;
          })
          .join("\n");
  return new TuneError("unknown-target-modules", what, {
    at: "target modules",
    fix: `choose among ${ends.join(", ")}, or use "all-linear"`,
  });
}
