import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { type AdapterHubSettings, readAdapterHub, type SublayerEnds, writeAdapterHub } from "../io/adapterhub.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import type { Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  type BottleneckConfig,
  type CompacterConfig,
  chooseMethod,
  linearModules,
  parameterName,
  sharedModule,
  weightsInPlace,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { taskFiles } from "./adapter-task.ts";

/** AdapterHub's kinds of adapters, by method. */
const kinds: Readonly<Record<string, AdapterHubSettings["kind"]>> = {
  compacter: "compacter",
  "compacter++": "compacter",
  phm: "phm",
  bottleneck: "dense",
};

function endsOf(model: PretrainedModel): SublayerEnds {
  const { sublayers } = model.architecture;
  const modules = [...linearModules(model.predict().outputs).keys()];
  const matching = (expression: RegExp): readonly string[] =>
    modules.filter((module) => new RegExp(`^(?:${expression.source})$`).test(module));
  if (!sublayers) {
    throw new TuneError("no-adapter-form", `${model.modelType} models do not say where their sublayers end.`, {
      at: "AdapterHub's format",
      fix: "use another base model",
    });
  }
  return { attention: matching(sublayers.attention), feedForward: matching(sublayers.feedForward) };
}

/**
 * Write an adapter as the folder that AdapterHub's `load_adapter` reads; weights that were trained beside it (norms,
 * heads) stand in a file of their own.
 * @throws {TuneError} `no-adapter-form` for methods that AdapterHub has not, and `write-failed`.
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
  const config = choice.config as unknown as BottleneckConfig & Partial<CompacterConfig>; // of the methods above
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
  const base = new Map(all.map(({ value: { name } }) => [name, adapter.parameters.get(name) as Tensor])); // attached, so there
  const settings: AdapterHubSettings = {
    kind,
    attention: ends.attention.some((module) => modules.includes(module)),
    feedForward: ends.feedForward.some((module) => modules.includes(module)),
    reduction: config.reduction,
    terms: config.terms ?? 4,
    fastRank: config.fastRank ?? 1,
    readsResidual: config.placement !== "sublayer",
    activation: config.activation,
    frozenRule: config.frozenRule ?? false,
  };
  const { hiddenSize } = model.sizes;
  const { className } = model.architecture;
  const described = { ends, hiddenSize, className, modelType: model.modelType, baseModel, beside: taskFiles(model) };
  await writeAdapterHub(storage, folder, { settings, tensors, ...(rule ? { rule } : {}), base }, described);
}

/**
 * Read an adapter that AdapterHub or {@link writeAdapterHubFolder} wrote.
 * @throws {TuneError} `not-finite-weight`, and what `readAdapterHub` throws.
 */
export async function readAdapterHubFolder(storage: Storage, folder: string, model: PretrainedModel): Promise<Adapter> {
  const { settings, tensors, rule, base } = await readAdapterHub(storage, folder, endsOf(model));
  const { kind, attention, reduction, terms, fastRank, readsResidual, activation, frozenRule } = settings;
  const method = kind === "dense" ? "bottleneck" : kind === "phm" ? "phm" : attention ? "compacter" : "compacter++";
  const { normed = false } = model.architecture.sublayers ?? {};
  const owners = [...new Set([...base.keys()].map((name) => name.slice(0, name.lastIndexOf("."))))];
  const choice = chooseMethod(
    method,
    {
      ...{ reduction, activation, positions: attention ? "both" : "feed-forward" },
      placement: readsResidual ? (normed ? "normed" : "residual") : "sublayer",
      frozenNorms: owners.length === 0,
      ...(kind === "dense" ? {} : { terms }),
      ...(kind === "compacter" ? { fastRank, frozenRule } : {}),
    },
    {},
    { modules: owners },
  );
  const parameters = new Map<string, Tensor>();
  const put = async (name: string, lazy: LazyTensor): Promise<void> => {
    const values = await toFloat32(lazy);
    assertFinite(name, values);
    parameters.set(name, values);
  };
  for (const [module, own] of tensors) {
    for (const [key, lazy] of Object.entries(own)) await put(parameterName(module, method, key), lazy);
  }
  if (rule) await put(parameterName(sharedModule, method, "rule"), rule);
  for (const [name, lazy] of base) await put(name, lazy);
  return { choice, targets: [...tensors.keys()], parameters };
}
