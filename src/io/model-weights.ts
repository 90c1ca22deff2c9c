import { TuneError } from "../errors.ts";
import type { LazyTensor } from "../graph/index.ts";
import { isJsonObject, parseJsonObject } from "./json.ts";
import { pickleRefused } from "./pickle.ts";
import { type Problem, problemOf, throwProblems } from "./problems.ts";
import {
  byteLengthOf,
  type NamedTensor,
  openSafetensors,
  refuseTakenNames,
  type Safetensors,
  writeSafetensors,
} from "./safetensors.ts";
import { insideFolder, joinPath, type Storage } from "./storage.ts";
import { readBytes } from "./text.ts";

const single = "model.safetensors";
const index = "model.safetensors.index.json";
const ours = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;

/**
 * Open the weights of a Hugging Face model folder: `model.safetensors`, or the shards that
 * `model.safetensors.index.json` names (the single file wins when both are there, as in transformers).
 * A tensor that a shard holds but the index does not list is left out.
 * @throws {TuneError} `weights-not-found` when the folder has neither, `pickle-refused` when it has only pickled
 * weights; `weights-bad-index`, `shard-missing`, `tensor-missing`, `path-outside-folder` or what `openSafetensors`
 * throws, with every problem of the folder in one error.
 */
export async function openModelWeights(storage: Storage, folder: string): Promise<ReadonlyMap<string, LazyTensor>> {
  const names = await storage.list(folder);
  if (names.includes(single)) return (await openSafetensors(storage, joinPath(folder, single))).tensors;
  if (!names.includes(index)) throw noWeights(folder, names);

  const indexPath = joinPath(folder, index);
  const { weight_map: listed } = parseJsonObject(await readBytes(storage, indexPath), "weights-bad-index", indexPath);
  if (!isJsonObject(listed)) {
    throw new TuneError("weights-bad-index", "it has no weight_map.", { at: indexPath, fix: "fetch the index again" });
  }
  const problems: Problem[] = [];
  const shards = new Map<string, Safetensors | undefined>(); // undefined: not readable, and already reported
  const tensors = new Map<string, LazyTensor>();
  for (const [name, file] of Object.entries(listed)) {
    if (typeof file !== "string") {
      problems.push({ code: "weights-bad-index", what: `${name}: its shard is not a file name.` });
      continue;
    }
    if (!shards.has(file)) shards.set(file, await openShard(storage, folder, file, problems));
    const shard = shards.get(file);
    const tensor = shard?.tensors.get(name);
    if (tensor !== undefined) tensors.set(name, tensor);
    else if (shard !== undefined) {
      const what = `${name}: ${file} does not hold it, though the index says so.`;
      problems.push({ code: "tensor-missing", what, fix: "fetch the index and its shards again" });
    }
  }
  throwProblems(problems, indexPath);
  return tensors;
}

/**
 * Write weights the way Hugging Face folders hold them: `model.safetensors`, or, when they exceed `maxShardBytes`,
 * `model-00001-of-0000N.safetensors` and so on, filled in the order given, with an index. Weights that the folder
 * held before are removed. The folder is whole or not there at all only inside `writeFolder`.
 * @throws {TuneError} as `writeSafetensors` does.
 */
export async function writeModelWeights(
  storage: Storage,
  folder: string,
  entries: Iterable<NamedTensor>,
  options: { readonly maxShardBytes?: number; readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const { maxShardBytes = 5e9, metadata } = options;
  const all = [...entries];
  refuseTakenNames(all, folder);
  const shards = splitIntoShards(all, maxShardBytes);
  const written = new Set<string>();
  const weightMap = new Map<string, string>();
  let totalBytes = 0;
  for (const [i, shard] of shards.entries()) {
    const file = shards.length === 1 ? single : `model-${padded(i + 1)}-of-${padded(shards.length)}.safetensors`;
    for (const { name, tensor } of shard) {
      weightMap.set(name, file);
      totalBytes += byteLengthOf(tensor);
    }
    await writeSafetensors(storage, joinPath(folder, file), shard, metadata);
    written.add(file);
  }
  if (shards.length > 1) {
    const sorted = Object.fromEntries([...weightMap].sort(([a], [b]) => (a < b ? -1 : 1)));
    const content = { metadata: { total_size: totalBytes }, weight_map: sorted };
    await storage.write(joinPath(folder, index), `${JSON.stringify(content, null, 2)}\n`);
    written.add(index);
  }
  for (const name of await storage.list(folder)) {
    if (ours.test(name) && !written.has(name)) await storage.remove(joinPath(folder, name));
  }
}

function noWeights(folder: string, names: readonly string[]): TuneError {
  const pickled = names.find((name) => /^pytorch_model.*\.bin(\.index\.json)?$/.test(name));
  if (pickled !== undefined) {
    const fix = "save the model again with transformers, which writes safetensors, or use a repository that has them";
    return pickleRefused(folder, pickled, fix);
  }
  return new TuneError("weights-not-found", `${folder} has no ${single} and no ${index}.`, {
    at: folder,
    fix: "name a folder that holds a Hugging Face model with safetensors weights",
  });
}

async function openShard(
  storage: Storage,
  folder: string,
  file: string,
  problems: Problem[],
): Promise<Safetensors | undefined> {
  try {
    const path = insideFolder(folder, file);
    if ((await storage.sizeBytes(path)) !== undefined) return await openSafetensors(storage, path);
    problems.push({ code: "shard-missing", what: `${file} is not there.`, fix: "fetch every shard the index names" });
  } catch (error) {
    const problem = problemOf(error);
    problems.push({ ...problem, what: [problem.what].flat().map((line, i) => (i === 0 ? `${file}: ${line}` : line)) });
  }
  return undefined;
}

function splitIntoShards(entries: Iterable<NamedTensor>, maxShardBytes: number): NamedTensor[][] {
  const shards: NamedTensor[][] = [[]];
  let bytes = 0;
  for (const entry of entries) {
    const size = byteLengthOf(entry.tensor);
    if (bytes > 0 && bytes + size > maxShardBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(entry);
    bytes += size;
  }
  return shards;
}

function padded(count: number): string {
  return String(count).padStart(5, "0");
}
