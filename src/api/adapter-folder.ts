import { putBack } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";

/** Files that say that a folder is an adapter's own. */
const adapterFiles: readonly string[] = ["adapter_config.json", "adapters.safetensors", "scales.safetensors"];

/** The folder of an adapter that is named by itself, or by the folder of the run that left it. */
export async function adapterFolder(storage: Storage, folder: string): Promise<string> {
  await putBack(storage, folder);
  const names = await storage.list(folder);
  if (!names.includes("adapter/") || adapterFiles.some((name) => names.includes(name))) return folder;
  return joinPath(folder, "adapter");
}
