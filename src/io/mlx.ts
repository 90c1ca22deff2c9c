import { TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { isJsonObject, type JsonObject, readJsonObject } from "./json.ts";
import { writeFolder } from "./outputs/index.ts";
import { type Problem, throwProblems } from "./problems.ts";
import { type NamedTensor, openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage } from "./storage.ts";

/*
 * Adapters as mlx-lm keeps them: `adapters.safetensors` with `<module>.lora_a` [in, rank], `.lora_b` [rank, out] and, of
 * DoRA, `.m` [out]; and `adapter_config.json` with one rank and scale for all: y = W·x + scale·(x·a)·b.
 */

/** What the config says of an adapter. */
export interface MlxSettings {
  readonly dora: boolean;
  readonly rank: number;
  /** The factor itself, not alpha. */
  readonly scale: number;
  readonly dropout: number;
}

/** Module -> its tensors. */
export type MlxTensors<T> = ReadonlyMap<string, Readonly<Record<"lora_a" | "lora_b", T>> & { readonly m?: T }>;

const configFile = "adapter_config.json";
const weightsFile = "adapters.safetensors";
const parts = ["lora_a", "lora_b", "m"] as const;

/** Whether a folder holds an adapter of mlx-lm. */
export async function isMlxAdapter(storage: Storage, folder: string): Promise<boolean> {
  const names = await storage.list(folder);
  return names.includes(weightsFile) && names.includes(configFile);
}

/**
 * Open an adapter folder of mlx-lm.
 * @throws {TuneError} `mlx-bad-adapter` with everything that is wrong; what `openSafetensors` throws.
 */
export async function readMlxAdapter(
  storage: Storage,
  folder: string,
): Promise<{ readonly settings: MlxSettings; readonly tensors: MlxTensors<LazyTensor> }> {
  const settings = readSettings(await readJsonObject(storage, joinPath(folder, configFile)), folder);
  const path = joinPath(folder, weightsFile);
  const { tensors } = await openSafetensors(storage, path);
  const modules = new Map<string, Partial<Record<(typeof parts)[number], LazyTensor>>>();
  const problems: Problem[] = [];
  const bad = (what: string): void => {
    problems.push({ code: "mlx-bad-adapter", what, fix: "save the adapter again with mlx_lm.lora" });
  };
  for (const [name, tensor] of tensors) {
    const part = parts.find((candidate) => name.endsWith(`.${candidate}`));
    if (part === undefined) {
      bad(`${name} is no part of a LoRA adapter.`);
      continue;
    }
    const module = name.slice(0, -(part.length + 1));
    modules.set(module, { ...modules.get(module), [part]: tensor });
  }
  const needed = settings.dora ? parts : parts.slice(0, 2);
  for (const [module, own] of modules) {
    for (const part of needed) if (own[part] === undefined) bad(`${module} has no ${part}.`);
    if (!settings.dora && own.m !== undefined) bad(`${module} has lengths (m), but the config says LoRA.`);
    const ranks = [own.lora_a?.shape[1], own.lora_b?.shape[0]];
    if (ranks.some((rank) => rank !== undefined && rank !== settings.rank)) {
      bad(`${module} has rank ${ranks.join(" and ")}, but the config says ${settings.rank}.`);
    }
  }
  if (modules.size === 0) bad("it holds no tensor.");
  throwProblems(problems, path);
  return { settings, tensors: modules as MlxTensors<LazyTensor> }; // no part is missing, or it has thrown
}

/** Write a folder that `mlx_lm.load(model, adapter_path=folder)` reads; it replaces what was there whole. */
export async function writeMlxAdapter(
  storage: Storage,
  folder: string,
  {
    settings,
    tensors,
    baseModel,
    beside = {},
  }: {
    readonly settings: MlxSettings;
    readonly tensors: MlxTensors<Tensor>;
    readonly baseModel: string;
    /** Further files of text, by name. */
    readonly beside?: Readonly<Record<string, string>>;
  },
): Promise<void> {
  const { dora, rank, scale, dropout } = settings;
  // Keys are matched in every block: what a block has no tensors for stays as it is, for its b starts at zero.
  const keys = [...new Set([...tensors.keys()].map((module) => module.replace(/^.*?\.\d+\./, "")))];
  const config = {
    model: baseModel,
    fine_tune_type: dora ? "dora" : "lora",
    num_layers: -1, // all
    lora_parameters: { rank, scale, dropout, keys },
  };
  const entries = [...tensors].flatMap(([module, own]): NamedTensor[] =>
    parts.flatMap((part) => (own[part] ? [{ name: `${module}.${part}`, tensor: own[part] }] : [])),
  );
  await writeFolder(storage, folder, "mlx", async (staging) => {
    await storage.write(joinPath(staging, configFile), `${JSON.stringify(config, null, 4)}\n`);
    await writeSafetensors(storage, joinPath(staging, weightsFile), entries);
    for (const [name, text] of Object.entries(beside)) await storage.write(joinPath(staging, name), text);
  });
}

function readSettings(config: JsonObject, folder: string): MlxSettings {
  const { fine_tune_type: type = "lora", lora_parameters: given } = config;
  const { rank, scale, dropout = 0, alpha } = isJsonObject(given) ? given : ({} as JsonObject);
  const fits =
    (type === "lora" || type === "dora") &&
    Number.isSafeInteger(rank) &&
    Number(rank) > 0 &&
    Number.isFinite(scale) &&
    Number.isFinite(dropout);
  // Versions of early 2024 wrote alpha too, and scaled by scale·alpha/rank.
  const factor = Number.isFinite(alpha) ? Number(alpha) / Number(rank) : 1;
  if (fits)
    return { dora: type === "dora", rank: Number(rank), scale: factor * Number(scale), dropout: Number(dropout) };
  throw new TuneError(
    "mlx-bad-adapter",
    type === "lora" || type === "dora"
      ? "adapter_config.json does not say rank and scale in lora_parameters."
      : `fine_tune_type ${JSON.stringify(type)} is not supported.`,
    { at: folder, fix: "use a LoRA or DoRA adapter that mlx_lm.lora wrote" },
  );
}
