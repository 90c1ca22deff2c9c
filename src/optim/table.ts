import { nearest, TuneError } from "../errors.ts";
import { type Fields, resolveFields } from "../fields.ts";
import { adamw } from "./adamw.ts";
import { adamw8bit } from "./adamw8bit.ts";
import type { Optimizer } from "./optimizer.ts";
import { sgd } from "./sgd.ts";

// A rule's config is its own; here rules are only asked for what every rule has, with the config they resolved.
type AnyOptimizer = Optimizer<OptimizerConfig>;
const all = [adamw, adamw8bit, sgd] as unknown as readonly AnyOptimizer[]; // see above

/** Every update rule by name. Adding one is one line above. */
export const optimizers: ReadonlyMap<string, AnyOptimizer> = new Map(
  all.map((optimizer) => [optimizer.name, optimizer]),
);

/** A rule's options, all of them settled. */
export type OptimizerConfig = Readonly<Record<string, number | boolean | string>>;

/** A rule with its options settled. */
export interface OptimizerChoice {
  readonly optimizer: AnyOptimizer;
  readonly config: OptimizerConfig;
}

/**
 * Choose an update rule by name and settle its options.
 * @throws {TuneError} `unknown-optimizer`, or `bad-option` listing every problem.
 */
export function chooseOptimizer(name: string, options: OptimizerConfig = {}): OptimizerChoice {
  const optimizer = optimizers.get(name);
  if (!optimizer) {
    const [near] = nearest(name, optimizers.keys(), 1);
    throw new TuneError("unknown-optimizer", `There is no optimizer "${name}".`, {
      at: "optimizer",
      fix: `use one of ${[...optimizers.keys()].join(", ")}${near ? ` (nearest: ${near})` : ""}`,
    });
  }
  const fields = optimizer.fields as Fields<OptimizerConfig>; // its own
  return { optimizer, config: resolveFields(optimizer.name, fields, options, optimizers.values()) };
}
