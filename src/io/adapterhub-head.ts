import type { LazyTensor, Tensor } from "../graph/index.ts";
import { isJsonObject, readJsonObject } from "./json.ts";
import { pickleRefused } from "./pickle.ts";
import type { Problem } from "./problems.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { joinPath, type Storage } from "./storage.ts";
import { readText } from "./text.ts";

const configFile = "head_config.json";
const weightsFile = "model_head.safetensors";
const pickleFile = "pytorch_model_head.bin";

/** The prediction head that AdapterHub's `save_adapter` puts beside an adapter, where the model has one of its own. */
export interface AdapterHubHead {
  /** `head_config.json` as it stands. */
  readonly config: string;
  /** By the model's own names, such as `classifier.weight`. */
  readonly tensors: ReadonlyMap<string, LazyTensor>;
  /** Labels by their number, where it names them. */
  readonly labels?: readonly string[];
}

/**
 * Open the head of a folder, if there is one. Heads that AdapterHub builds itself (`heads.<name>`) are no part of the
 * models that are built here: they are added to the problems by name.
 * @throws {TuneError} `pickle-refused`, `file-not-found`, and what `openSafetensors` throws.
 */
export async function readHead(
  storage: Storage,
  folder: string,
  names: readonly string[],
  problems: Problem[],
): Promise<AdapterHubHead | undefined> {
  if (!names.includes(weightsFile)) {
    if (names.includes(pickleFile)) throw pickleRefused(folder, pickleFile, "save it with use_safetensors=True");
    return undefined;
  }
  const configPath = joinPath(folder, configFile);
  const json = await readJsonObject(storage, configPath);
  const { config, model_class: made } = json;
  if (config !== null && config !== undefined) {
    const kind = isJsonObject(config) ? config["head_type"] : config;
    problems.push({
      code: "adapterhub-bad-adapter",
      what: `${configFile}: the head of ${String(made)} (head_type ${JSON.stringify(kind)}) is AdapterHub's own and not built here.`,
      fix: "save the adapter with with_head=False, or from a class of transformers with a head",
    });
    return undefined;
  }
  const { tensors } = await openSafetensors(storage, joinPath(folder, weightsFile));
  const labels = labelsOf(json["label2id"]);
  return { config: await readText(storage, configPath), tensors: new Map(tensors), ...(labels ? { labels } : {}) };
}

function labelsOf(byLabel: unknown): readonly string[] | undefined {
  if (!isJsonObject(byLabel)) return undefined;
  return Object.entries(byLabel)
    .sort(([, a], [, b]) => Number(a) - Number(b))
    .map(([label]) => label);
}

/** Write a head as it was read, with the weights that it has now. */
export async function writeHead(
  storage: Storage,
  folder: string,
  config: string,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<void> {
  await storage.write(joinPath(folder, configFile), config);
  const entries = [...tensors].map(([name, tensor]) => ({ name, tensor }));
  await writeSafetensors(storage, joinPath(folder, weightsFile), entries);
}
