import { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import {
  type Adapter,
  adaptedModules,
  chooseMethod,
  configAt,
  linearModules,
  parameterName,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";

/**
 * The same adapter as plain LoRA, which every LoRA server reads: A and B with the scale in them, so alpha is the rank.
 * Modules whose update is zero by its rank are left out. An adapter that is LoRA's already is returned as it is.
 * @throws {TuneError} `no-adapter-form` where the method's update is not B·A, or no module has any.
 */
export function asLora(model: PretrainedModel, adapter: Adapter, at: string): Adapter {
  const { choice } = adapter;
  const { method } = choice;
  if (method.name === "lora") return adapter;
  if (!method.asLora) throw refuse(`${method.name} tuning is no low-rank update.`, at);
  const { outputs } = model.predict();
  const { outputModule } = model.architecture;
  const sites = linearModules(outputs);
  const modules = adaptedModules(outputs, { ...adapter, outputModule });
  const isOwn = (name: string): boolean =>
    modules.some((module) => name.startsWith(parameterName(module, method.name, "")));
  const parameters = new Map([...adapter.parameters].filter(([name]) => !isOwn(name))); // what is trained in place
  const ranks: Record<string, number> = {};
  for (const module of modules) {
    const site = sites.get(module);
    const own: Record<string, Tensor> = {};
    for (const [name, values] of adapter.parameters) {
      const start = parameterName(module, method.name, "");
      if (name.startsWith(start)) own[name.slice(start.length)] = values;
    }
    if (!site || Object.keys(own).length === 0) continue;
    const { A, B } = method.asLora(own, configAt(choice, module), site);
    const [rank = 0] = A.shape;
    if (rank === 0) continue;
    parameters.set(parameterName(module, "lora", "A"), A);
    parameters.set(parameterName(module, "lora", "B"), B);
    ranks[module] = rank;
  }
  const highest = Math.max(0, ...Object.values(ranks));
  if (highest === 0) throw refuse("The adapter changes nothing: no module has any rank left.", at);
  const others = Object.fromEntries(Object.entries(ranks).filter(([, rank]) => rank !== highest));
  const { inPlace } = choice;
  const lora = chooseMethod("lora", { rank: highest, alpha: highest }, { rank: others, alpha: others });
  return { choice: inPlace ? { ...lora, inPlace } : lora, targets: Object.keys(ranks), parameters };
}

function refuse(what: string, at: string): TuneError {
  return new TuneError("no-adapter-form", what, {
    at,
    fix: "export merged weights instead (safetensors or transformers.js)",
  });
}
