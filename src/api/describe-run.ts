import {
  chooseMethod,
  endsOfPath,
  type InPlace,
  type MethodConfig,
  methods,
  type Patterns,
  sublayerTargets,
  type TargetModules,
} from "../methods/index.ts";
import { vocabularyTensors } from "../models/index.ts";
import { chooseObjective } from "../train/objectives/index.ts";
import type { PlanOptions } from "../train/plan.ts";
import { resolveSettings, type TrainSettings } from "../train/settings.ts";
import type { LoadedData } from "./load-data.ts";
import { type LoadedModel, padIdOf } from "./load-model.ts";
import { tokenizerFacts } from "./model-facts.ts";

/** What is tuned how: training settings, and the method with its own options. */
export interface TuningChoice extends Partial<TrainSettings> {
  /** `lora`, `full`, …: a name in `methods`. */
  readonly method?: string;
  /** The method's options, such as `{ rank: 8, alpha: 16 }`. */
  readonly methodOptions?: Partial<MethodConfig>;
  /** As in PEFT: `"all-linear"`, names, or a regular expression; the architecture's own choice unless given. */
  readonly targetModules?: TargetModules;
  /** `causal-lm`, `dpo`, …: a name in `objectives`; what the data is for unless given. */
  readonly objective?: string;
  /** The objective's options, such as `{ beta: 0.1 }`. */
  readonly objectiveOptions?: Readonly<Record<string, number | boolean | string>>;
  /** Options that some modules have otherwise, such as `{ rank: { down_proj: 16 } }`. */
  readonly patterns?: Patterns;
  /** Modules and biases that are trained in place besides, such as `{ modules: ["lm_head"] }`. */
  readonly inPlace?: Partial<InPlace>;
}

/**
 * The run that a choice makes of a model and data.
 * @throws {TuneError} for a method, options or settings that do not fit.
 */
export async function describeRun(
  model: LoadedModel,
  data: Pick<LoadedData, "train" | "validation"> & Partial<Pick<LoadedData, "kind" | "mixture">>,
  { method, methodOptions, objective, objectiveOptions, targetModules, patterns, inPlace, ...settings }: TuningChoice,
): Promise<PlanOptions> {
  const besides = withHead(model, method ?? "lora", withNewTokens(model, inPlace));
  const asked = chooseMethod(method ?? "lora", methodOptions, patterns, besides);
  const { choice, targets } = asked.method.sublayers
    ? sublayerTargets({ ...model.pretrained, sublayers: model.pretrained.architecture.sublayers }, asked)
    : { choice: asked, targets: targetModules ?? model.pretrained.architecture.defaultTargets };
  const minimised = chooseObjective(objective, objectiveOptions, data.kind);
  const resolved = resolveSettings(settings);
  return {
    model: model.pretrained,
    choice,
    objective: minimised,
    targets,
    settings: resolved,
    train: data.train,
    ...(data.mixture === undefined ? {} : { mixture: data.mixture }),
    validation: data.validation,
    padId: await padIdOf(model),
    facts: await tokenizerFacts(model),
  };
}

/** The rows of new tokens are trained in embeddings and output layer. */
function withNewTokens({ pretrained, newTokens = [] }: LoadedModel, inPlace: Partial<InPlace> = {}): Partial<InPlace> {
  if (newTokens.length === 0) return inPlace;
  const modules = vocabularyTensors(pretrained).map((name) => name.slice(0, name.lastIndexOf(".")));
  const trained = new Set([...(inPlace.modules ?? [])]);
  const rows = modules.filter((module) => ![...trained].some((whole) => endsOfPath(module, whole)));
  const tokens = Object.fromEntries(rows.map((module): [string, readonly number[]] => [module, newTokens]));
  return { ...inPlace, tokens: { ...tokens, ...inPlace.tokens } };
}

/** Beside an adapter, a head is trained whole; a method in place of every weight trains it anyway. */
function withHead({ pretrained }: LoadedModel, method: string, inPlace: Partial<InPlace> = {}): Partial<InPlace> {
  if (methods.get(method)?.attaches === "weight") {
    const { tokens: _trainedAnyway, ...rest } = inPlace;
    return rest;
  }
  return { ...inPlace, modules: [...new Set([...pretrained.headModules, ...(inPlace.modules ?? [])])] };
}
