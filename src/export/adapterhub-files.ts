import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import {
  type AdapterHubOrigin,
  type AdapterHubSettings,
  adaptedEnds,
  layerNumber,
  layersOf,
  readAdapterHub,
  type SublayerEnds,
  writeAdapterHub,
} from "../io/adapterhub.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import type { Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  type BottleneckConfig,
  type CompacterConfig,
  chooseMethod,
  configAt,
  linearModules,
  type MethodChoice,
  type PhmConfig,
  parameterName,
  sharedModule,
  throwMismatch,
  weightsInPlace,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { activationFunctions } from "../ops/index.ts";
import { taskFiles } from "./adapter-task.ts";

/** The options of every method that AdapterHub has a form for. */
type Config = BottleneckConfig & Partial<PhmConfig & CompacterConfig>;
type Kronecker = Pick<AdapterHubSettings, "kind" | "sharedRule" | "factorised">;

/** What AdapterHub has of each method. */
const kinds: Readonly<Record<string, (config: Config) => Kronecker>> = {
  compacter: ({ ownRules }) => ({ kind: "phm", sharedRule: ownRules !== true, factorised: true }),
  "compacter++": ({ ownRules }) => ({ kind: "phm", sharedRule: ownRules !== true, factorised: true }),
  phm: ({ sharedRule }) => ({ kind: "phm", sharedRule: sharedRule === true, factorised: false }),
  bottleneck: () => ({ kind: "dense", sharedRule: false, factorised: false }),
};

const form = "adapterhub";
const activations = Object.keys(activationFunctions);

function endsOf(model: PretrainedModel): SublayerEnds {
  const { sublayers } = model.architecture;
  const modules = [...linearModules(model.predict().outputs).keys()];
  const matching = (expression: RegExp | undefined): readonly string[] =>
    expression ? modules.filter((module) => new RegExp(`^(?:${expression.source})$`).test(module)) : [];
  if (!sublayers) {
    throw new TuneError("no-adapter-form", `${model.modelType} models do not say where their sublayers end.`, {
      at: "AdapterHub's format",
      fix: "use another base model",
    });
  }
  const { attention, crossAttention, feedForward } = sublayers;
  return {
    attention: matching(attention),
    crossAttention: matching(crossAttention),
    feedForward: matching(feedForward),
  };
}

/**
 * Write an adapter as the folder that AdapterHub's `load_adapter` reads, with the name and all else that the folder said
 * which it was read from; weights that were trained beside it (norms, heads) stand in a file of their own.
 * @throws {TuneError} `no-adapter-form` for methods that AdapterHub has not and for modules that its config has no words
 * for, and `write-failed`.
 */
export async function writeAdapterHubFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  { choice, ...adapter }: Adapter,
  { baseModel }: { readonly baseModel: string },
): Promise<void> {
  const kind = kinds[choice.method.name];
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const modules = adaptedModules(outputs, { choice, ...adapter, outputModule });
  if (kind === undefined) {
    throw new TuneError("no-adapter-form", `AdapterHub has no form for ${choice.method.name} tuning.`, {
      at: folder,
      fix: "export it for PEFT",
    });
  }
  const ends = endsOf(model);
  const tensors = new Map<string, Record<string, Tensor>>();
  for (const module of modules) {
    const start = parameterName(module, choice.method.name, "");
    const own = [...adapter.parameters].filter(([name]) => name.startsWith(start));
    tensors.set(module, Object.fromEntries(own.map(([name, values]) => [name.slice(start.length), values])));
  }
  const rule = adapter.parameters.get(parameterName(sharedModule, choice.method.name, "rule"));
  const { all } = weightsInPlace(outputs, choice.inPlace, new Set(modules));
  const inPlace = all.map(({ value: { name } }) => [name, adapter.parameters.get(name) as Tensor] as const); // attached, so there
  const origin = adapter.origin?.form === form ? (adapter.origin.said as Origin) : undefined; // of the reader below
  const inHead = (name: string): boolean => origin?.inHead.includes(name) === true;
  const { hiddenSize } = model.sizes;
  await writeAdapterHub(
    storage,
    folder,
    {
      settings: settingsOf(choice, modules, ends, kind, folder),
      tensors,
      ...(rule ? { rule } : {}),
      base: new Map(inPlace.filter(([name]) => !inHead(name))),
      head: new Map(inPlace.filter(([name]) => inHead(name))),
    },
    {
      ...{ ends, hiddenSize, activations, baseModel, className: model.architecture.className },
      ...{ modelType: model.modelType, beside: taskFiles(model) },
      ...(origin ? { origin } : {}),
    },
  );
}

/** What an adapter that was read keeps of its folder. */
interface Origin extends AdapterHubOrigin {
  /** Weights of its head. */
  readonly inHead: readonly string[];
}

/** What AdapterHub's config says of an adapter. */
function settingsOf(
  choice: MethodChoice,
  modules: readonly string[],
  ends: SublayerEnds,
  kind: (config: Config) => Kronecker,
  at: string,
): AdapterHubSettings {
  const config = choice.config as unknown as Config; // of the methods above
  const refuse = (what: string): never => {
    throw new TuneError("no-adapter-form", `AdapterHub's config has no words for ${what}.`, {
      at,
      fix: "tune the adapter without it, to have it in AdapterHub's format",
    });
  };
  const has = (kind: keyof SublayerEnds): boolean => ends[kind].some((module) => modules.includes(module));
  const layers = layersOf(ends).map((_, number) => number);
  const adapted = new Set(modules.map((module) => layerNumber(ends, module)));
  const byLayer = new Map<number, number>();
  for (const [option, values] of Object.entries(choice.patterns ?? {})) {
    if (option !== "reduction" && Object.keys(values).length > 0) refuse(`${option} by module`);
  }
  for (const module of modules) {
    const layer = layerNumber(ends, module);
    const { reduction } = configAt(choice, module) as unknown as Config; // as above
    if ((byLayer.get(layer) ?? reduction) !== reduction) refuse("two reductions in one layer");
    byLayer.set(layer, reduction);
  }
  const settings: AdapterHubSettings = {
    ...kind(config),
    attention: has("attention"),
    crossAttention: has("crossAttention"),
    feedForward: has("feedForward"),
    leftOut: layers.filter((layer) => !adapted.has(layer)),
    reduction: config.reduction,
    reductions: Object.fromEntries([...byLayer].filter(([, reduction]) => reduction !== config.reduction)),
    terms: config.terms ?? 4,
    fastRank: config.fastRank ?? 1,
    frozenRule: config.frozenRule ?? false,
    reads: config.placement === "sublayer" || config.placement === "parallel" ? config.placement : "residual",
    activation: config.activation,
    scaling: config.scaling,
    dropout: config.dropout,
  };
  const said = adaptedEnds(settings, ends);
  if (said.length !== modules.length) refuse("adapters behind some sublayers of a layer that others are not behind");
  return settings;
}

/**
 * Read an adapter that AdapterHub or {@link writeAdapterHubFolder} wrote.
 * @throws {TuneError} `not-finite-weight`, `adapter-mismatch` for a head that is not the model's, and what
 * `readAdapterHub` throws.
 */
export async function readAdapterHubFolder(storage: Storage, folder: string, model: PretrainedModel): Promise<Adapter> {
  const ends = endsOf(model);
  const { hiddenSize } = model.sizes;
  const read = await readAdapterHub(storage, folder, { ends, hiddenSize, activations });
  const { settings, tensors, rule, base, head, labels, origin } = read;
  throwMismatch(headProblems(model, head, labels), folder);
  const { attention, crossAttention, feedForward, reads, reduction, reductions, activation } = settings;
  const phm = settings.kind === "phm";
  const method = !phm ? "bottleneck" : !settings.factorised ? "phm" : attention ? "compacter" : "compacter++";
  const { normed = false } = model.architecture.sublayers ?? {};
  const whole = new Map([...base, ...head]);
  const owners = [...new Set([...whole.keys()].map((name) => name.slice(0, name.lastIndexOf("."))))];
  const { scaling, dropout, terms, fastRank, frozenRule, sharedRule } = settings;
  const own = [...tensors.keys()].flatMap((module): [string, number][] => {
    const other = reductions[layerNumber(ends, module)];
    return other === undefined || other === reduction ? [] : [[module.replaceAll(".", "\\."), other]];
  });
  const choice = chooseMethod(
    method,
    {
      ...{ reduction, activation, crossAttention, scaling, dropout },
      positions: attention && feedForward ? "both" : attention ? "attention" : "feed-forward",
      placement: reads !== "residual" ? reads : normed ? "normed" : "residual",
      frozenNorms: base.size === 0,
      ...(phm ? { terms, frozenRule } : {}),
      ...(method === "phm" ? { sharedRule } : phm ? { fastRank, ownRules: !sharedRule } : {}),
    },
    own.length > 0 ? { reduction: Object.fromEntries(own) } : {},
    { modules: owners },
  );
  const parameters = new Map<string, Tensor>();
  const put = async (name: string, lazy: LazyTensor): Promise<void> => {
    const values = await toFloat32(lazy);
    assertFinite(name, values);
    parameters.set(name, values);
  };
  for (const [module, parts] of tensors) {
    for (const [key, lazy] of Object.entries(parts)) await put(parameterName(module, method, key), lazy);
  }
  if (rule) await put(parameterName(sharedModule, method, "rule"), rule);
  for (const [name, lazy] of whole) await put(name, lazy);
  const said: Origin = { ...origin, inHead: [...head.keys()] };
  return { choice, targets: [...tensors.keys()], parameters, origin: { form, said } };
}

/** What a head beside an adapter has that the model has not. */
function headProblems(
  { labels: own, weights }: PretrainedModel,
  head: ReadonlyMap<string, LazyTensor>,
  labels: readonly string[] | undefined,
): readonly string[] {
  const unknown = [...head.keys()].filter((name) => !weights.has(name));
  const others = own && labels && own.join("\n") !== labels.join("\n");
  return [
    ...unknown.map((name) => `the model has no weight called ${name}, which the adapter's head has`),
    ...(others
      ? [`the adapter's head is for the labels ${labels.join(", ")}, and the model's are ${own.join(", ")}`]
      : []),
  ];
}
