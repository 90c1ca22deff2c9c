import { TuneError } from "../errors.ts";
import { fetchModel, type HubSettings, hubSettings, parseHubId } from "./node-hub.ts";
import { nodeStorage } from "./node-storage.ts";
import type { FindModelOptions } from "./platform.ts";

/**
 * The folder of a model given as a folder or as a hub id. A folder that exists wins over an id of the same name.
 * @throws {TuneError} `model-not-found`, or what {@link fetchModel} throws.
 */
export async function findNodeModel(
  source: string,
  options: FindModelOptions = {},
  settings?: HubSettings,
): Promise<string> {
  if ((await nodeStorage.list(source)).length > 0) return source;
  if ((await nodeStorage.sizeBytes(source)) !== undefined) {
    throw new TuneError("model-not-found", `${source} is a file; a model is a folder with a config.json.`, {
      fix: "pass the folder that the file is in",
    });
  }
  const id = parseHubId(source);
  if (id === undefined) {
    throw new TuneError("model-not-found", `There is no folder ${source}.`, {
      fix: "pass a folder with a config.json, or a hub id such as HuggingFaceTB/SmolLM2-135M",
    });
  }
  return fetchModel(id, settings ?? (await hubSettings(process.env)), options);
}
