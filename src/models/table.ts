import { nearest, TuneError } from "../errors.ts";
import type { Architecture } from "./architecture.ts";
import type { ConfigJson } from "./config.ts";

/** Every architecture by `model_type`, loaded when a model asks for it. Adding one is one line here. */
const architectures: Readonly<Record<string, () => Promise<Architecture>>> = {
  llama: async () => erase((await import("./llama.ts")).llama),
  mistral: async () => erase((await import("./mistral.ts")).mistral),
  qwen2: async () => erase((await import("./qwen2.ts")).qwen2),
  qwen3: async () => erase((await import("./qwen3.ts")).qwen3),
  smollm3: async () => erase((await import("./smollm3.ts")).smollm3),
  gemma: async () => erase((await import("./gemma.ts")).gemma),
  gemma2: async () => erase((await import("./gemma2.ts")).gemma2),
  gemma3_text: async () => erase((await import("./gemma3.ts")).gemma3),
  phi3: async () => erase((await import("./phi3.ts")).phi3),
  gpt_neox: async () => erase((await import("./gpt-neox.ts")).gptNeox),
  gpt2: async () => erase((await import("./gpt2.ts")).gpt2),
};

/** A record is only ever handed the config that its own `configure` made, so its config type can be forgotten. */
function erase<Config>(architecture: Architecture<Config>): Architecture {
  return architecture as unknown as Architecture;
}

/** The `model_type`s that can be loaded. */
export const supportedModelTypes: readonly string[] = Object.keys(architectures);

/**
 * The architecture that a `config.json` names.
 * @throws {TuneError} `unknown-architecture` naming those supported.
 */
export async function findArchitecture(json: ConfigJson, folder: string): Promise<Architecture> {
  const modelType = json["model_type"];
  const load =
    typeof modelType === "string" && Object.hasOwn(architectures, modelType) ? architectures[modelType] : undefined;
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
