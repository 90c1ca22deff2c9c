import { nearest, TuneError } from "../errors.ts";
import type { Architecture, Family } from "./architecture.ts";
import { causalFamily } from "./causal-lm.ts";
import type { ConfigJson } from "./config.ts";
import { type Encoder, encoderFamily } from "./encoder.ts";

/** Every family by `model_type`, loaded when a model asks for it. Adding one is one line here. */
const families: Readonly<Record<string, () => Promise<Family>>> = {
  llama: async () => causal((await import("./llama.ts")).llama),
  mistral: async () => causal((await import("./mistral.ts")).mistral),
  qwen2: async () => causal((await import("./qwen2.ts")).qwen2),
  qwen3: async () => causal((await import("./qwen3.ts")).qwen3),
  smollm3: async () => causal((await import("./smollm3.ts")).smollm3),
  gemma: async () => causal((await import("./gemma.ts")).gemma),
  gemma2: async () => causal((await import("./gemma2.ts")).gemma2),
  gemma3_text: async () => causal((await import("./gemma3.ts")).gemma3),
  phi3: async () => causal((await import("./phi3.ts")).phi3),
  gpt_neox: async () => causal((await import("./gpt-neox.ts")).gptNeox),
  gpt2: async () => causal((await import("./gpt2.ts")).gpt2),
  bert: async () => encoder((await import("./bert.ts")).bert),
  roberta: async () => encoder((await import("./roberta.ts")).roberta),
  "deberta-v2": async () => encoder((await import("./deberta-v2.ts")).debertaV2),
  retsim: async () => encoder((await import("./retsim.ts")).retsim),
  vit: async () => encoder((await import("./vit.ts")).vit),
  t5: async () => erase((await import("./t5.ts")).t5),
};

function causal<Config>(architecture: Architecture<Config>): Family {
  return erase(causalFamily(architecture));
}

function encoder<Config>(record: Encoder<Config>): Family {
  return erase(encoderFamily(record));
}

/** A record is only ever handed the config that its own `configure` made, so its config type can be forgotten. */
function erase<Config>(family: Family<Config>): Family {
  return family as unknown as Family;
}

/** The `model_type`s that can be loaded. */
export const supportedModelTypes: readonly string[] = Object.keys(families);

/**
 * The family of models that a `config.json` names.
 * @throws {TuneError} `unknown-architecture` naming those supported.
 */
export async function findArchitecture(json: ConfigJson, folder: string): Promise<Family> {
  const modelType = json["model_type"];
  const load = typeof modelType === "string" && Object.hasOwn(families, modelType) ? families[modelType] : undefined;
  if (load) return load();
  const near = typeof modelType === "string" ? nearest(modelType, supportedModelTypes, 1)[0] : undefined;
  throw new TuneError(
    "unknown-architecture",
    modelType === undefined
      ? "config.json names no model_type."
      : `The architecture ${JSON.stringify(modelType)} is not supported.`,
    { at: folder, fix: `use one of: ${supportedModelTypes.join(", ")}${near ? ` (nearest: ${near})` : ""}` },
  );
}
