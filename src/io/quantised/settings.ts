import { isJsonObject, type JsonObject, readJsonObject } from "../json.ts";
import { joinPath, type Storage } from "../storage.ts";
import type { QuantisationSettings } from "./format.ts";

/** What a folder says of how its weights were quantised. */
export interface SaidQuantisation {
  /** Where it is said: `quantization_config of config.json`. */
  readonly at: string;
  /** The name of the method, if one is given. */
  readonly method: string | undefined;
  readonly settings: QuantisationSettings;
  /** What single modules have otherwise, by name (MLX), where that is said. */
  readonly modules: Readonly<Record<string, QuantisationSettings>>;
}

/** Keys of `config.json` that hold it: transformers', compressed-tensors' older one, MLX's. */
const keys = ["quantization_config", "compression_config", "quantization"] as const;

/** Files beside `config.json` that older tools wrote it to. */
const files = ["quantize_config.json", "quant_config.json", "quantization_config.json"] as const;

/** Older spellings of AWQ. */
const renamed: Readonly<Record<string, string>> = { w_bit: "bits", q_group_size: "group_size" };

/** Look for what is said of quantisation, in `config.json` (at its root or one level below) or beside it. */
export async function readSaidQuantisation(
  storage: Storage,
  folder: string,
  json: JsonObject,
): Promise<SaidQuantisation | undefined> {
  for (const [within, value] of [["", json] as const, ...Object.entries(json)]) {
    if (!isJsonObject(value)) continue;
    for (const key of keys) {
      const said = value[key];
      if (isJsonObject(said)) return describe(said, `${within ? `${within}.` : ""}${key} of config.json`);
    }
  }
  const beside = await storage.list(folder);
  for (const name of files.filter((file) => beside.includes(file))) {
    const path = joinPath(folder, name);
    return describe(await readJsonObject(storage, path), name);
  }
  return undefined;
}

/** `config.json` of the same model with plain weights. */
export function withoutQuantisation<T extends JsonObject>(json: T): T {
  const drop = (object: JsonObject): JsonObject =>
    Object.fromEntries(Object.entries(object).filter(([key]) => !keys.some((own) => own === key)));
  const inner = Object.entries(drop(json)).map(([key, value]) => [key, isJsonObject(value) ? drop(value) : value]);
  return Object.fromEntries(inner) as T; // the same keys but for those that may be absent
}

function describe(said: JsonObject, at: string): SaidQuantisation {
  const method = said["quant_method"];
  const loaded = ["load_in_8bit", "load_in_4bit"].some((key) => said[key] === true) ? "bitsandbytes" : undefined;
  const { config_groups: groups } = said;
  const schemes = isJsonObject(groups) ? Object.values(groups) : [];
  const ofWeights = schemes.flatMap((group) =>
    isJsonObject(group) && isJsonObject(group["weights"]) ? [group["weights"]] : [],
  );
  const [only] = ofWeights.length === 1 ? ofWeights : [{}];
  const spelt = Object.fromEntries(Object.entries(said).map(([key, value]) => [renamed[key] ?? key, value]));
  const modules = Object.entries(said).filter((entry): entry is [string, JsonObject] => isJsonObject(entry[1]));
  return {
    at,
    method: typeof method === "string" ? method : loaded,
    settings: { ...spelt, ...only },
    modules: Object.fromEntries(modules),
  };
}
