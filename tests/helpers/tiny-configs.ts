import { readdir, readFile } from "node:fs/promises";
import { families } from "./families.ts";
import { golden } from "./golden.ts";

type Config = Readonly<Record<string, unknown>>;

/** What families call their number of layers. */
const layerCounts = ["num_hidden_layers", "num_layers", "n_layer"];

/**
 * The smallest configuration of a family among those that tests use, cut down to one layer. Of golden models one with
 * labels is taken before one without.
 * @throws when there is none: a family has one in `families.ts` or in `golden/`.
 */
export async function tinyConfig(modelType: string): Promise<Config> {
  const all = [...Object.values(families), ...(await goldenConfigs())].filter(
    (config) => config["model_type"] === modelType,
  );
  const chosen = all.find((config) => config["id2label"] !== undefined) ?? all[0];
  if (chosen === undefined) throw new Error(`no tiny configuration of ${modelType} in tests/`);
  return { ...chosen, ...Object.fromEntries(layerCounts.flatMap((key) => (key in chosen ? [[key, 1]] : []))) };
}

async function goldenConfigs(): Promise<readonly Config[]> {
  const files = (await readdir(golden(""), { recursive: true })).filter((path) => /(^|[\\/])config\.json$/.test(path));
  const texts = await Promise.all(files.sort().map((path) => readFile(golden(path), "utf8")));
  return texts.map((text) => JSON.parse(text) as Config); // ours
}
