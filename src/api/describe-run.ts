import { TuneError } from "../errors.ts";
import {
  attach,
  chooseMethod,
  endsOfPath,
  type InPlace,
  type MethodChoice,
  type MethodConfig,
  methods,
  type Patterns,
  type SelectedModules,
  sublayerTargets,
  type TargetModules,
} from "../methods/index.ts";
import { attendingExactly, vocabularyTensors } from "../models/index.ts";
import { chooseOptimizer, optimizers } from "../optim/index.ts";
import { checkNames, checkWord, type Inside, type NamesOf } from "../options.ts";
import { checkBaseWeights, defaultBaseWeights } from "../train/base-weights.ts";
import { longestOf } from "../train/data/index.ts";
import { chooseObjective, type ObjectiveChoice, objectives } from "../train/objectives/index.ts";
import type { PlanOptions } from "../train/plan.ts";
import { privateStepOf } from "../train/privacy.ts";
import { defaultRate } from "../train/rates.ts";
import { resolveSettings, type TrainSettings, trainDefaults } from "../train/settings.ts";
import { providerOf, type RunPlace } from "./device-names.ts";
import type { LoadedData, StreamedData } from "./load-data.ts";
import { type LoadedModel, padIdOf } from "./load-model.ts";
import { tokenizerFacts } from "./model-facts.ts";

/** What is tuned how: training settings, and the method with its own options. */
export interface TuningChoice extends Partial<TrainSettings> {
  /** `lora`, `full`, …: a name in `methods`. */
  readonly method?: string;
  /** The method's options, such as `{ rank: 8, alpha: 16 }`. */
  readonly methodOptions?: Partial<MethodConfig>;
  /** As in PEFT: `"all-linear"`, names, or a regular expression; every linear layer but the output layer unless given. */
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

/** Every name of a choice. */
export const tuningNames: NamesOf<TuningChoice> = {
  ...(Object.fromEntries(Object.keys(trainDefaults).map((name) => [name, true])) as NamesOf<TrainSettings>), // its keys
  method: true,
  methodOptions: true,
  targetModules: true,
  objective: true,
  objectiveOptions: true,
  patterns: true,
  inPlace: true,
};

/** What belongs into objects inside a choice. */
export function insideTuning(): Inside {
  const namesIn = (records: Iterable<{ readonly fields: object }>): readonly string[] =>
    [...records].flatMap(({ fields }) => Object.keys(fields));
  return {
    methodOptions: namesIn(methods.values()),
    objectiveOptions: namesIn(objectives.values()),
    optimizerOptions: namesIn(optimizers.values()),
    inPlace: Object.keys(inPlaceNames),
    targetModules: Object.keys(selectedNames),
  };
}

const inPlaceNames: NamesOf<InPlace> = { modules: true, biases: true, tokens: true };
const selectedNames: NamesOf<SelectedModules> = { modules: true, exclude: true, layers: true };

/**
 * Look at everything of a choice that needs no data and no weights: names, settings, the method with its options, and, of
 * a model, target modules and the ranks that they allow.
 * @throws {TuneError} for whatever does not fit.
 */
export function checkTuning(choice: TuningChoice, model?: LoadedModel): void {
  checkNames(choice, tuningNames, "tuning", insideTuning());
  const { objective: name, objectiveOptions } = choice;
  chooseObjective(name, objectiveOptions, name === undefined ? undefined : objectives.get(name)?.learnsFrom);
  if (model === undefined) {
    const { method } = chooseMethod(choice.method ?? "lora", choice.methodOptions, choice.patterns);
    settingsOf(choice, method);
    return;
  }
  const { choice: method, targets } = methodOf(model, choice);
  const settings = settingsOf(choice, method.method);
  if (method.method.attaches === "weight") return;
  const { outputModule } = model.pretrained.architecture;
  attach(model.pretrained.predict().outputs, { choice: method, targets, outputModule, training: true });
  refuseIdle(idleDecay({ model: model.pretrained, choice: method, targets, settings }), settings.optimizer);
}

/** What is wrong with a decay that would shrink nothing, as nothing that decays is trained. */
export function idleDecay({
  model,
  choice,
  targets,
  settings,
}: Pick<PlanOptions, "model" | "choice" | "targets" | "settings">): readonly string[] {
  const { optimizer, config } = chooseOptimizer(settings.optimizer, settings.optimizerOptions);
  const { decay } = optimizer;
  if (decay === undefined || config[decay] === 0) return [];
  const { outputModule } = model.architecture;
  const { trainables } = attach(model.predict().outputs, { choice, targets, outputModule, training: true });
  if (trainables.some(({ trained, decays }) => trained && decays)) return [];
  return [`${decay}: nothing that ${choice.method.name} trains here decays`];
}

/** What is known of a run besides its choice. */
interface DescribeOptions extends RunPlace {
  /** Whether something looks at the model whenever an evaluation is due, validation rows or not. */
  readonly observes?: boolean;
  /** Whether others share its settings, so that a decay may do nothing for this one. */
  readonly compared?: boolean;
}

/**
 * The run that a choice makes of a model and data.
 * @throws {TuneError} for names that are no options, a method, options or settings that do not fit, and options that would
 * do nothing.
 */
export async function describeRun(
  model: LoadedModel,
  data: Pick<LoadedData, "train" | "validation"> & Partial<Pick<StreamedData, "kind" | "mixture" | "store">>,
  tuning: TuningChoice,
  { observes = false, compared = false, ...where }: DescribeOptions = {},
): Promise<PlanOptions> {
  checkNames(tuning, tuningNames, "tuning", insideTuning());
  const { choice, targets } = methodOf(model, tuning);
  const minimised = chooseObjective(tuning.objective, tuning.objectiveOptions, data.kind);
  const provider = await providerOf(model.platform, where);
  const settings = settingsOf(tuning, choice.method, {
    learningRate: defaultRate(choice.method, minimised.objective),
    ...(choice.method.attaches === "weight" ? {} : { baseWeights: defaultBaseWeights(model.pretrained, provider) }),
  });
  checkBaseWeights(settings.baseWeights, provider);
  if (privateStepOf(settings)) refuseNotPrivate(minimised.objective, data.mixture);
  if (data.validation.length === 0) {
    refuseIdle([
      ...(settings.patience > 0 ? ["patience: no rows are held back, so nothing is evaluated"] : []),
      ...(settings.evaluateEvery > 0 && !observes
        ? ["evaluateEvery: no rows are held back, so nothing is evaluated"]
        : []),
    ]);
  }
  if (!compared) refuseIdle(idleDecay({ model: model.pretrained, choice, targets, settings }), settings.optimizer);
  const longest = Math.max("store" in data ? data.store.longest : longestOf(data.train), longestOf(data.validation));
  return {
    model: privateStepOf(settings) ? model.pretrained : attendingExactly(model.pretrained, longest),
    choice,
    objective: minimised,
    targets,
    settings,
    train: data.train,
    ...(data.mixture === undefined ? {} : { mixture: data.mixture }),
    validation: data.validation,
    padId: await padIdOf(model),
    facts: await tokenizerFacts(model),
  };
}

/** @throws {TuneError} `no-per-example`, `bad-option` for what private training cannot be made of. */
function refuseNotPrivate({ name, examples }: ObjectiveChoice["objective"], mixture: LoadedData["mixture"] = []): void {
  if ("refused" in examples) {
    throw new TuneError("no-per-example", `${name} has no gradient per example: ${examples.refused}.`, {
      at: "objective",
      fix: "choose another objective, or tune without privacy",
    });
  }
  if (mixture.every(({ weight }) => weight === 1)) return;
  throw new TuneError(
    "bad-option",
    "Private training draws every example with the same probability, and files have weights.",
    {
      at: "data",
      fix: "leave the weights out",
    },
  );
}

/** @throws {TuneError} `bad-option` where there are options that would do nothing. */
export function refuseIdle(problems: readonly string[], at = "training settings"): void {
  if (problems.length === 0) return;
  throw new TuneError(
    "bad-option",
    problems.map((problem) => `This would do nothing: ${problem}.`),
    {
      at,
      fix: "leave these options out, or give what they need",
    },
  );
}

/** The method with its options settled, and where it attaches. */
function methodOf(
  model: LoadedModel,
  { method, methodOptions, targetModules, patterns, inPlace = {}, baseWeights: held }: TuningChoice,
): { readonly choice: MethodChoice; readonly targets: TargetModules } {
  checkNames(inPlace, inPlaceNames, "inPlace");
  checkWord("inPlace.biases", inPlace.biases, ["none", "adapted", "all"], "inPlace");
  if (typeof targetModules === "object" && "modules" in targetModules)
    checkNames(targetModules, selectedNames, "targetModules");
  const besides = withHead(model, method ?? "lora", withNewTokens(model, inPlace));
  const asked = chooseMethod(method ?? "lora", methodOptions, patterns, besides);
  const { name, sublayers, attaches } = asked.method;
  const narrowed =
    typeof targetModules === "object" && "modules" in targetModules
      ? (["exclude", "layers"] as const).filter((key) => targetModules[key] !== undefined)
      : [];
  const words = narrowed.map((key) => (key === "exclude" ? "exclude modules" : key));
  const targeted = words.length > 0 ? `targetModules (${words.join(", ")})` : "targetModules";
  refuseIdle(
    [
      ...(targetModules !== undefined && attaches === "weight"
        ? [`${targeted}: ${name} trains every weight of the model`]
        : []),
      ...(targetModules !== undefined && sublayers ? [`${targeted}: ${name} stands behind sublayers`] : []),
      ...(held !== undefined && held !== "f32" && attaches === "weight"
        ? [`baseWeights: ${name} trains every weight of the model, and none stays frozen`]
        : []),
    ],
    name,
  );
  if (!sublayers) return { choice: asked, targets: targetModules ?? "all-linear" };
  return sublayerTargets({ ...model.pretrained, sublayers: model.pretrained.architecture.sublayers }, asked);
}

function settingsOf(
  choice: TuningChoice,
  method: MethodChoice["method"],
  defaults: Partial<TrainSettings> = { learningRate: defaultRate(method, {}) },
): TrainSettings {
  const given = Object.entries(choice).filter(([name]) => Object.hasOwn(trainDefaults, name));
  return resolveSettings(Object.fromEntries(given), defaults);
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
