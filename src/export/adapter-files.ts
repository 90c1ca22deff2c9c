import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import { isMlxAdapter } from "../io/mlx.ts";
import { type PeftLayout, type PeftWholeWeights, readPeftAdapter, writePeftAdapter } from "../io/peft.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  attach,
  besideWholeWeights,
  checkParameters,
  chooseModules,
  type InPlace,
  linearModules,
  methods,
  parameterName,
  weightsInPlace,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { readMlx } from "./mlx-files.ts";
import { translations } from "./peft-translations.ts";

/**
 * Write an adapter as the folder that PEFT's `PeftModel.from_pretrained` loads.
 * @throws {TuneError} `no-adapter-form` for a method that leaves no adapter (full tuning), and `write-failed`.
 */
export async function writeAdapter(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  adapter: Adapter,
  { baseModel }: { readonly baseModel: string },
): Promise<void> {
  const { method } = adapter.choice;
  const translation = method.peft && translations[method.peft.type];
  if (!method.peft || !translation) {
    throw new TuneError(
      "no-adapter-form",
      `${method.name} tuning leaves no adapter: it changes the weights themselves.`,
      {
        at: folder,
        fix: "export merged weights instead (safetensors or transformers.js)",
      },
    );
  }
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const sites = linearModules(outputs);
  const modules = adaptedModules(outputs, { ...adapter, outputModule });
  const tensors = new Map<string, Record<string, Tensor>>();
  for (const module of modules) {
    const parts = Object.keys(method.peft.tensors).map((key): [string, Tensor | undefined] => [
      key,
      adapter.parameters.get(parameterName(module, method.name, key)),
    ]);
    tensors.set(module, Object.fromEntries(parts.filter((part): part is [string, Tensor] => part[1] !== undefined)));
  }
  const written = translation.write(adapter, tensors, {
    targetModules: shortNames(modules, [...sites.keys()], outputModule),
    fanInFanOut: modules.some((module) => sites.get(module)?.layout === "in,out"),
    baseModel,
  });
  const { inPlace } = adapter.choice;
  const { all } = weightsInPlace(outputs, inPlace, new Set(modules));
  const whole = new Map(all.map(({ value: { name } }) => [name, adapter.parameters.get(name) as Tensor])); // attached, so there
  await writePeftAdapter(storage, folder, {
    ...written,
    layout: method.peft,
    ...(inPlace ? { whole: { ...inPlace, tensors: whole } } : {}),
  });
}

/** PEFT's own spelling of targets, the last parts of module names, when it chooses the same modules. */
function shortNames(chosen: readonly string[], all: readonly string[], outputModule: string): readonly string[] {
  const short = [...new Set(chosen.map((module) => module.split(".").at(-1) ?? module))];
  return chooseModules(short, all, outputModule).join() === chosen.join() ? short : chosen;
}

/**
 * Read an adapter that PEFT, mlx-lm or Scion wrote, and check it against the model it is to be used with.
 * @throws {TuneError} `adapter-mismatch` listing every difference, `not-finite-weight`, and what reading PEFT's or
 * mlx-lm's files throws.
 */
export async function readAdapter(storage: Storage, folder: string, model: PretrainedModel): Promise<Adapter> {
  const adapter = (await isMlxAdapter(storage, folder))
    ? await readMlx(storage, folder)
    : await readPeft(storage, folder);
  const { outputs } = model.predict();
  const modules = adapter.targets as readonly string[]; // as both read them
  refuseUnknownModules(modules, [...linearModules(outputs).keys()], folder);
  const { outputModule } = model.architecture;
  const { trainables } = attach(outputs, { ...adapter, outputModule, training: false });
  checkParameters(trainables, adapter.parameters, folder);
  return besideWholeWeights(outputs, adapter, outputModule);
}

async function readPeft(storage: Storage, folder: string): Promise<Adapter> {
  const layouts = [...methods.values()].flatMap(({ peft }): PeftLayout[] => (peft ? [peft] : []));
  const { config, layout, tensors, whole } = await readPeftAdapter(storage, folder, layouts);
  const translation = translations[layout.type];
  if (!translation) throw new Error(`${layout.type} has a layout and no translation`);
  const stored = new Map<string, Readonly<Record<string, Tensor>>>();
  for (const [module, parts] of tensors) {
    const read: Record<string, Tensor> = {};
    for (const [key, lazy] of Object.entries(parts)) read[key] = await readChecked(`${module}.${key}`, lazy);
    stored.set(module, read);
  }
  const { tensors: own, steps, ...read } = translation.read(config, stored, joinPath(folder, "adapter_config.json"));
  const choice = whole.tensors.size === 0 ? read.choice : { ...read.choice, inPlace: inPlaceOf(whole) };
  const parameters = new Map<string, Tensor>();
  for (const [module, parts] of own) {
    for (const [key, values] of Object.entries(parts)) {
      parameters.set(parameterName(module, choice.method.name, key), values);
    }
  }
  for (const [name, lazy] of whole.tensors) parameters.set(name, await readChecked(name, lazy));
  return { choice, targets: [...own.keys()], parameters, ...(steps === undefined ? {} : { steps }) };
}

/** PEFT's names of modules may end inside a word of a path; where one does, the modules' whole names stand for it. */
function inPlaceOf({ modules, biases, tensors }: PeftWholeWeights<LazyTensor>): InPlace {
  const owners = [...new Set([...tensors.keys()].map((name) => name.slice(0, name.lastIndexOf("."))))];
  const whole = modules.flatMap((saved) => {
    const partly = owners.filter((owner) => owner.endsWith(saved) && owner !== saved && !owner.endsWith(`.${saved}`));
    return partly.length > 0 ? owners.filter((owner) => owner.endsWith(saved)) : [saved];
  });
  return { modules: [...new Set(whole)], biases };
}

async function readChecked(name: string, lazy: LazyTensor): Promise<Tensor> {
  const values = await toFloat32(lazy);
  assertFinite(name, values);
  return values;
}

function refuseUnknownModules(modules: readonly string[], known: readonly string[], at: string): void {
  const unknown = modules.filter((module) => !known.includes(module));
  if (unknown.length === 0) return;
  const shown = unknown.slice(0, 8).join(", ") + (unknown.length > 8 ? `, and ${unknown.length - 8} more` : "");
  throw new TuneError("adapter-mismatch", `The model has no linear layers called ${shown}.`, {
    at,
    fix: "use the adapter with the base model that it was trained on",
  });
}
