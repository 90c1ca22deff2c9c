import { nearest, TuneError } from "../errors.ts";
import { type DType, type LazyTensor, sizeOf, type Value, type WeightValue, weight } from "../graph/index.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import { readJsonObject } from "../io/json.ts";
import { openModelWeights } from "../io/model-weights.ts";
import { dequantised, openPacked, type PackedFile, packedFileName } from "../io/packed/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import type { Architecture, ModelSizes, Weights } from "./architecture.ts";
import { type DecodeOptions, decodeGraph, likelihoodGraph, lossGraph, type OpenGraph } from "./causal-lm.ts";
import type { ConfigJson } from "./config.ts";
import { findArchitecture } from "./table.ts";

/** A pretrained causal language model: what its folder says, with its weights still unread. */
export interface PretrainedModel {
  readonly folder: string;
  readonly modelType: string;
  readonly architecture: Architecture;
  /** `config.json` as it was read, for exports. */
  readonly json: ConfigJson;
  readonly sizes: ModelSizes;
  /** Every tensor of the model by the name transformers gives it, read as float32 and refused if it is not finite. */
  readonly weights: ReadonlyMap<string, WeightValue>;
  /** What the files hold its tensors in. */
  readonly storedAs: ReadonlySet<DType>;
  /** Tensors that the files hold and the model does not use. */
  readonly unused: readonly string[];
  /** Where the weights are packed: their planes and scales. `weights` gives the same ones dequantised. */
  readonly packed?: PackedFile;
  /** Parameters of the model; tied tensors count once. */
  readonly parameterCount: number;
  /** The training objective; see {@link lossGraph}. */
  loss(): OpenGraph;
  /** The log-likelihood of every label; see {@link likelihoodGraph}. */
  likelihood(): OpenGraph;
  /** One decoding step; see {@link decodeGraph}. */
  decode(options: DecodeOptions): OpenGraph;
}

/**
 * Open a model folder in the Hugging Face layout: `config.json` and safetensors, or a packed file in their place.
 * @throws {TuneError} `unknown-architecture`, `bad-config`, `weights-mismatch` (every missing and misshapen tensor at
 * once), and what reading the files throws.
 */
export async function openModel(storage: Storage, folder: string): Promise<PretrainedModel> {
  const json = await readJsonObject(storage, joinPath(folder, "config.json"));
  const architecture = await findArchitecture(json, folder);
  if (!(await storage.list(folder)).includes(packedFileName)) {
    return assembleModel({ folder, json, architecture, files: await openModelWeights(storage, folder) });
  }
  const packed = await openPacked(storage, joinPath(folder, packedFileName));
  const matrices = [...packed.matrices].map(([name, entry]) => [name, dequantised(entry)] as const);
  const files = new Map([...packed.tensors, ...matrices]);
  return { ...assembleModel({ folder, json, architecture, files }), packed };
}

/** Put a model together from its parts: the tensors may come from files or from memory. */
export function assembleModel(options: {
  readonly folder: string;
  readonly json: ConfigJson;
  readonly architecture: Architecture;
  readonly files: ReadonlyMap<string, LazyTensor>;
}): PretrainedModel {
  const { folder, json, architecture, files } = options;
  const config = architecture.configure(json);
  const sizes = architecture.sizes(config);
  const weights = matchTensors(architecture, config, files, folder);
  const read: Weights = (name): Value => {
    const found = weights.found.get(name);
    if (found === undefined)
      throw new Error(`${architecture.modelType} reads ${name}, which its tensors() do not list`);
    return found;
  };
  return {
    folder,
    modelType: architecture.modelType,
    architecture,
    json,
    sizes,
    weights: weights.found,
    storedAs: weights.storedAs,
    unused: weights.unused,
    parameterCount: [...weights.found.values()].reduce((sum, { source }) => sum + sizeOf(source.shape), 0),
    loss: () => lossGraph(architecture, config, read),
    likelihood: () => likelihoodGraph(architecture, config, read),
    decode: (options) => decodeGraph(architecture, config, read, options),
  };
}

function matchTensors(
  architecture: Architecture,
  config: unknown,
  files: ReadonlyMap<string, LazyTensor>,
  folder: string,
): { found: ReadonlyMap<string, WeightValue>; storedAs: ReadonlySet<DType>; unused: readonly string[] } {
  const { basePrefix } = architecture;
  const problems: string[] = [];
  const found = new Map<string, WeightValue>();
  const used = new Set<string>();
  const storedAs = new Set<DType>();
  for (const { name, shape } of architecture.tensors(config)) {
    const short = name.startsWith(basePrefix) ? name.slice(basePrefix.length) : name;
    const key = [name, short].find((candidate) => files.has(candidate));
    const tensor = key === undefined ? undefined : files.get(key);
    if (key === undefined || tensor === undefined) {
      const [near] = nearest(name, files.keys(), 1);
      problems.push(`missing ${name} [${shape.join(", ")}]${near ? ` (the files hold ${near})` : ""}`);
    } else if (tensor.shape.join() !== shape.join()) {
      problems.push(`${name} is [${tensor.shape.join(", ")}], but config.json asks for [${shape.join(", ")}]`);
    } else {
      used.add(key);
      storedAs.add(tensor.dtype);
      found.set(name, weight(name, checkedFloat32(name, tensor)));
    }
  }
  if (problems.length > 0) {
    throw new TuneError("weights-mismatch", `The weights do not fit config.json:\n  ${problems.join("\n  ")}`, {
      at: folder,
      fix: "use the config.json and the safetensors of one and the same model",
    });
  }
  const unused = [...files.keys()].filter((name) => !used.has(name) && !architecture.ignored.test(name));
  return { found, storedAs, unused };
}

/** Reads as float32, whatever the file holds, and refuses NaN and infinity before anything computes with them. */
function checkedFloat32(name: string, tensor: LazyTensor): LazyTensor {
  return {
    dtype: "float32",
    shape: tensor.shape,
    sizeBytes: 4 * sizeOf(tensor.shape),
    read: async () => {
      const values = await toFloat32(tensor);
      assertFinite(name, values);
      return values;
    },
  };
}
