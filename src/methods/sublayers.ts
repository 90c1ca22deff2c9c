import { TuneError } from "../errors.ts";
import type { MethodChoice } from "./table.ts";
import type { TargetModules } from "./targets.ts";

/** What is to be known of a model whose sublayers get adapters. */
export interface SublayerModel {
  readonly modelType: string;
  /** Whole paths of the linear maps that end each kind of sublayer. */
  readonly sublayers:
    | {
        readonly attention: RegExp;
        readonly crossAttention?: RegExp;
        readonly feedForward: RegExp;
        readonly normed?: true;
      }
    | undefined;
  /** Its tensors by name. */
  readonly weights: Iterable<readonly [name: string, weight: { readonly shape: readonly (number | string)[] }]>;
}

/**
 * Where a method of sublayers attaches, and the norms that it trains in place unless they are to stay: every module whose
 * weight is a vector.
 * @throws {TuneError} `bad-option` for a model that does not say where its sublayers end.
 */
export function sublayerTargets(
  { modelType, sublayers, weights }: SublayerModel,
  choice: MethodChoice,
): { readonly choice: MethodChoice; readonly targets: TargetModules } {
  if (!sublayers) {
    throw new TuneError("bad-option", `${modelType} models do not say where their sublayers end.`, {
      at: choice.method.name,
      fix: "use lora or another method that attaches to linear layers",
    });
  }
  const { positions, placement, frozenNorms, crossAttention: crosses } = choice.config;
  const { attention, crossAttention, feedForward, normed = false } = sublayers;
  if (placement === (normed ? "residual" : "normed")) {
    const what = normed ? "norm what they add sublayers to before it goes on" : "add sublayers to what no norm changes";
    throw new TuneError("bad-option", `Blocks of ${modelType} models ${what}.`, {
      at: `placement: ${placement}`,
      fix: `use the placement ${normed ? "normed" : "residual"}, or sublayer`,
    });
  }
  if (crosses === true && !crossAttention) {
    throw new TuneError("bad-option", `${modelType} models have no attention to an encoder.`, {
      at: "crossAttention",
      fix: "leave it out",
    });
  }
  const kinds = [
    ...(positions === "feed-forward" ? [] : [attention]),
    ...(crosses === true && crossAttention ? [crossAttention] : []),
    ...(positions === "attention" ? [] : [feedForward]),
  ];
  const targets = new RegExp(kinds.map(({ source }) => `(?:${source})`).join("|"));
  if (frozenNorms === true) return { choice, targets };
  const norms = [...weights].flatMap(([name, { shape }]) =>
    shape.length === 1 && name.endsWith(".weight") ? [name.slice(0, -".weight".length)] : [],
  );
  const { modules = [], biases = "none" } = choice.inPlace ?? {};
  return { choice: { ...choice, inPlace: { modules: [...new Set([...modules, ...norms])], biases } }, targets };
}
