import { TuneError } from "../errors.ts";
import { type LazyTensor, sizeOf, type Tensor } from "../graph/index.ts";
import { assertFinite, toFloat32 } from "../io/convert.ts";
import { type MlxTensors, readMlxAdapter, writeMlxAdapter } from "../io/mlx.ts";
import type { Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  chooseMethod,
  configAt,
  embeddingModules,
  type LoraConfig,
  loraScale,
  parameterName,
  readersOfWeights,
} from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { asLora } from "./as-lora.ts";
import { type CardOptions, cardFiles, titleOf } from "./model-card.ts";

/**
 * Read an adapter that mlx-lm wrote. Its factor becomes alpha = scale·rank.
 * @throws {TuneError} `adapter-mismatch` for embeddings that are the output layer too; `not-finite-weight`, and what
 * `readMlxAdapter` throws.
 */
export async function readMlx(storage: Storage, folder: string, model: PretrainedModel): Promise<Adapter> {
  const { settings, tensors } = await readMlxAdapter(storage, folder);
  const { dora, rank, scale, dropout } = settings;
  const tied = tiedEmbedding(model, [...tensors.keys()]);
  if (tied !== undefined) {
    throw new TuneError(
      "adapter-mismatch",
      `${tied} is the output layer too, where mlx-lm lets the adapter act as well.`,
      {
        at: folder,
        fix: "fuse the adapter (mlx_lm.fuse) and load the fused model",
      },
    );
  }
  const choice = chooseMethod(dora ? "dora" : "lora", { rank, alpha: scale * rank, dropout });
  const parameters = new Map<string, Tensor>();
  for (const [module, own] of tensors) {
    const put = async (key: string, lazy: LazyTensor | undefined, turned: boolean): Promise<void> => {
      if (lazy === undefined) return;
      const name = parameterName(module, choice.method.name, key);
      const values = await toFloat32(lazy);
      assertFinite(name, values);
      parameters.set(name, turned ? transposed(values) : values);
    };
    await put("A", own.lora_a, true);
    await put("B", own.lora_b, true);
    await put("magnitude", own.m, false);
  }
  return { choice, targets: [...tensors.keys()], parameters };
}

/**
 * Write an adapter for mlx-lm. Modules of other ranks and alphas than the rest are brought to one rank and factor, with
 * zeros and in B, which changes nothing that they compute.
 * @throws {TuneError} `no-adapter-form` for methods that mlx-lm does not have, and for architectures whose modules it
 * names otherwise.
 */
export async function writeMlx(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  given: Adapter,
  options: CardOptions,
): Promise<void> {
  const adapter = given.choice.method.asLora ? asLora(model, given, folder) : given;
  const { choice } = adapter;
  const { method } = choice;
  if (method.peft?.type !== "LORA" || model.architecture.basePrefix !== "model.") {
    const what = method.peft?.type === "LORA" ? `${model.modelType} models` : `${method.name} tuning`;
    throw new TuneError("no-adapter-form", `mlx-lm has no adapters for ${what} in these names.`, {
      at: folder,
      fix: "export merged weights (safetensors), which mlx_lm.convert reads",
    });
  }
  if (choice.inPlace !== undefined) {
    throw new TuneError("no-adapter-form", "mlx-lm has no adapters with whole modules, biases or tokens beside them.", {
      at: folder,
      fix: "export merged weights (safetensors), which mlx_lm.convert reads",
    });
  }
  const { outputModule } = model.architecture;
  const modules = adaptedModules(model.predict().outputs, { ...adapter, outputModule });
  const tied = tiedEmbedding(model, modules);
  if (tied !== undefined) {
    const what = `${tied} is the output layer too, where mlx-lm would let the adapter act as well.`;
    throw new TuneError("no-adapter-form", what, {
      at: folder,
      fix: "export merged weights (safetensors), which mlx_lm.convert reads",
    });
  }
  const settingsAt = (module: string): LoraConfig => configAt(choice, module) as unknown as LoraConfig; // methods of PEFT's type LORA, asked for above, have LoRA's fields
  const rank = Math.max(...modules.map((module) => settingsAt(module).rank));
  const scale = loraScale(settingsAt(modules[0] ?? ""));
  const tensors = new Map<string, { lora_a: Tensor; lora_b: Tensor; m?: Tensor }>();
  for (const module of modules) {
    const read = (key: string): Tensor | undefined => adapter.parameters.get(parameterName(module, method.name, key));
    const [a, b, m] = [read("A"), read("B"), read("magnitude")];
    if (!a || !b) throw new Error(`${module} has no A and B`);
    tensors.set(module, {
      lora_a: resized(transposed(a), 1, rank, 1),
      lora_b: resized(transposed(b), 0, rank, loraScale(settingsAt(module)) / scale),
      ...(m ? { m } : {}),
    });
  }
  const settings = { dora: method.name === "dora", rank, scale, dropout: settingsAt(modules[0] ?? "").dropout };
  await writeMlxAdapter(storage, folder, {
    settings,
    tensors: tensors satisfies MlxTensors<Tensor>,
    baseModel: options.baseModel,
    beside: await cardFiles(storage, model.folder, {
      adapter: given,
      ...options,
      title: titleOf(folder),
      library: "mlx",
    }),
  });
}

/** An embedding among the modules whose table is the output layer too. */
function tiedEmbedding(model: PretrainedModel, modules: readonly string[]): string | undefined {
  const { outputs } = model.predict();
  const embeddings = embeddingModules(outputs);
  const readers = readersOfWeights(outputs);
  return modules.find((module) => {
    const weight = embeddings.get(module)?.weight;
    return weight?.kind === "weight" && (readers.get(weight)?.size ?? 0) > 1;
  });
}

/** [rows, columns] -> [columns, rows]. */
function transposed({ shape, data }: Tensor): Tensor<"float32"> {
  const [rows = 1, columns = 1] = shape;
  const turned = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = Number(data[i * columns + j]);
  return { dtype: "float32", shape: [columns, rows], data: turned };
}

/** Zeros behind an axis up to `size`, and every value times `factor`. */
function resized({ shape, data }: Tensor, axis: 0 | 1, size: number, factor: number): Tensor<"float32"> {
  const [rows = 1, columns = 1] = shape;
  const wider = axis === 0 ? [size, columns] : [rows, size];
  const values = new Float32Array(sizeOf(wider));
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) values[i * (wider[1] ?? 1) + j] = factor * Number(data[i * columns + j]);
  }
  return { dtype: "float32", shape: wider, data: values };
}
