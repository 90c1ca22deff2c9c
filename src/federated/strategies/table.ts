import { nearest, TuneError } from "../../errors.ts";
import { type Fields, resolveFields } from "../../fields.ts";
import { fedavg } from "./fedavg.ts";
import { fedex } from "./fedex.ts";
import { fedsvd, fedsvdSqrt } from "./fedsvd.ts";
import { ffa, ffaOrth } from "./ffa.ts";
import { flora } from "./flora.ts";
import type { Strategy } from "./strategy.ts";

/** A strategy's options, all of them settled. */
export type StrategyConfig = Readonly<Record<string, number | boolean | string>>;

// A strategy's config is its own; here strategies are only asked for what every one has, with the config they resolved.
type AnyStrategy = Strategy<StrategyConfig>;
const all = [fedsvd, ffa, ffaOrth, fedavg, flora, fedex, fedsvdSqrt] as unknown as readonly AnyStrategy[]; // see above

/** Every federated method by name. Adding one is one line above. */
export const strategies: ReadonlyMap<string, AnyStrategy> = new Map(all.map((strategy) => [strategy.name, strategy]));

/** A federated method with its options settled. */
export interface StrategyChoice {
  readonly strategy: AnyStrategy;
  readonly config: StrategyConfig;
}

/**
 * Choose a federated method by name and settle its options.
 * @throws {TuneError} `unknown-method`, or `bad-option` listing every problem.
 */
export function chooseStrategy(name = "fedsvd", options: Partial<StrategyConfig> = {}): StrategyChoice {
  const strategy = strategies.get(name);
  if (!strategy) {
    const near = nearest(name, strategies.keys(), 1)[0];
    throw new TuneError("unknown-method", `There is no federated method "${name}".`, {
      at: "method",
      fix: `use one of ${[...strategies.keys()].join(", ")}${near ? ` (nearest: ${near})` : ""}`,
    });
  }
  const fields = strategy.fields as Fields<StrategyConfig>; // checked field by field
  return { strategy, config: resolveFields(name, fields, options as StrategyConfig, strategies.values()) };
}
