import { listing, TuneError } from "../errors.ts";
import type { LazyTensor, Tensor } from "../graph/index.ts";
import { toFloat32 } from "../io/convert.ts";
import {
  float32,
  type GgufMetadata,
  type GgufTensor,
  type GgufTypeName,
  ggufPartElements,
  ggufTypes,
  text,
  uint32,
  writeGguf,
} from "../io/gguf.ts";
import { writeFolder } from "../io/outputs/index.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import {
  type Adapter,
  adaptedModules,
  configAt,
  embeddingModules,
  type LoraConfig,
  loraScale,
  parameterName,
} from "../methods/index.ts";
import type { GgufForm, GgufPart, PretrainedModel } from "../models/index.ts";
import { checkPreTokenizer, ggufName, noForm, tokenizerMetadata } from "./gguf-tokenizer.ts";
import { type CardOptions, cardFiles, titleOf } from "./model-card.ts";
import { copyLicence, writeFiles } from "./model-files.ts";
import { rowParts } from "./row-parts.ts";

/** `general.file_type` of each type. */
const fileTypes: Readonly<Record<GgufTypeName, number>> = { f32: 0, f16: 1, q8_0: 7 };

/** How a model is written for llama.cpp. */
export interface GgufOptions extends CardOptions {
  /** A file for each. */
  readonly dtypes: readonly GgufTypeName[];
  /** How texts are cut, where the tokenizer is like none of llama.cpp's; see `ggufPreTokenizers`. */
  readonly preTokenizer?: string;
}

/**
 * Write a model for llama.cpp, Ollama and LM Studio: `<folder's name>-<dtype>.gguf` with its tokenizer and chat
 * template, a `Modelfile` and a model card. Matrices are written as `dtype`; vectors stay float32, and rows that are no
 * multiple of 32 long become float16 where q8_0 is asked for. The folder appears whole or not at all.
 * @throws {TuneError} `no-gguf-form` naming everything that llama.cpp cannot do of the model.
 */
export async function writeGgufFolder(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  options: GgufOptions,
): Promise<void> {
  const { dtypes, preTokenizer, baseModel } = options;
  if (preTokenizer !== undefined) checkPreTokenizer(preTokenizer);
  const form = formOf(model);
  const { vocabSize } = model.sizes;
  const cutting = preTokenizer === undefined ? {} : { preTokenizer };
  const tokenizer = await tokenizerMetadata(storage, model.folder, { vocabSize, ...cutting });
  const title = titleOf(folder);
  const metadataFor = (dtype: GgufTypeName): GgufMetadata => ({
    ...described(form, { kind: "model", title: ggufName(title, tokenizer), baseModel, dtype }),
    "general.quantization_version": uint32(2),
    ...prefixed(form),
    [`${form.architecture}.vocab_size`]: uint32(tokenizer.rows.length),
    ...tokenizer.metadata,
  });
  const tensorsFor = (dtype: GgufTypeName): readonly GgufTensor[] =>
    form.parts.map((part) => {
      const { shape, parts } = partOf(part.vocabulary ? { ...part, rows: tokenizer.rows } : part, model);
      return { name: part.name, shape, type: typeFor(part, shape, dtype), parts };
    });
  const files = dtypes.map((dtype) => `${title}-${dtype}.gguf`);
  await writeFolder(storage, folder, "gguf", async (staging) => {
    await copyLicence(storage, model.folder, staging);
    for (const [i, dtype] of dtypes.entries()) {
      const content = { metadata: metadataFor(dtype), tensors: tensorsFor(dtype) };
      await writeGguf(storage, joinPath(staging, files[i] ?? ""), content);
    }
    await storage.write(joinPath(staging, "Modelfile"), `FROM ./${files[0]}\n`);
    const about = { ...options, title, library: "llama.cpp" };
    await writeFiles(storage, staging, await cardFiles(storage, model.folder, about));
  });
}

/**
 * Write a LoRA adapter for llama.cpp (`--lora`, or `ADAPTER` in a Modelfile). Its alpha is that of the first module; B of
 * a module that scales otherwise makes up for it.
 * @throws {TuneError} `no-adapter-form` for other methods than LoRA, `no-gguf-form` for models that llama.cpp does not
 * know.
 */
export async function writeGgufAdapter(
  storage: Storage,
  folder: string,
  model: PretrainedModel,
  adapter: Adapter,
  options: GgufOptions,
): Promise<void> {
  const { choice } = adapter;
  const { modules: saved = [], biases = "none", tokens } = choice.inPlace ?? {};
  const whole = saved.length > 0 || biases !== "none" || tokens !== undefined;
  if (choice.method.peft?.type !== "LORA" || choice.method.peft.flag !== undefined || whole) {
    const what = whole ? "modules, biases or tokens that are trained in place" : `${choice.method.name} tuning`;
    throw new TuneError("no-adapter-form", `llama.cpp has no adapters for ${what}.`, {
      at: folder,
      fix: "export the merged model (gguf)",
    });
  }
  const form = formOf(model);
  const { outputModule } = model.architecture;
  const modules = adaptedModules(model.predict().outputs, { ...adapter, outputModule });
  const embeddings = embeddingModules(model.predict().outputs);
  const embedded = modules.find((module) => embeddings.has(module));
  if (embedded !== undefined) {
    throw new TuneError(
      "no-adapter-form",
      `Adapters of embeddings, such as ${embedded}, are not written for llama.cpp.`,
      {
        at: folder,
        fix: "export the merged model (gguf)",
      },
    );
  }
  const settingsAt = (module: string): LoraConfig => configAt(choice, module) as unknown as LoraConfig; // methods of PEFT's type LORA, asked for above, have LoRA's fields
  const { alpha } = settingsAt(modules[0] ?? "");
  const tensorsFor = (type: GgufTypeName): readonly GgufTensor[] =>
    modules.flatMap((module) => {
      const part = form.parts.find(({ from }) => from === `${module}.weight`);
      if (part === undefined) throw noForm(folder, `llama.cpp has no tensor for ${module}.`);
      const [a, b] = (["A", "B"] as const).map((key) => {
        const found = adapter.parameters.get(parameterName(module, choice.method.name, key));
        if (found?.dtype !== "float32") throw new Error(`${module} has a float32 ${key}`);
        return found as Tensor<"float32">; // as asked
      }) as [Tensor<"float32">, Tensor<"float32">]; // two keys
      const rank = a.shape[0] ?? 1;
      const factor = (loraScale(settingsAt(module)) * rank) / alpha; // llama.cpp multiplies by alpha / rank
      const rows = rowsOf(b, part.rows);
      const scaled = factor === 1 ? rows : { ...rows, data: rows.data.map((value) => factor * value) };
      const entry = (key: string, values: Tensor<"float32">): GgufTensor => ({
        name: `${part.name}.lora_${key}`,
        shape: values.shape,
        type,
        parts: () => [values.data],
      });
      return [entry("a", a), entry("b", scaled)];
    });
  const title = titleOf(folder);
  const { baseModel } = options;
  await writeFolder(storage, folder, "gguf-lora", async (staging) => {
    for (const dtype of options.dtypes) {
      const metadata: GgufMetadata = {
        ...described(form, { kind: "adapter", title, baseModel, dtype }),
        "adapter.type": text("lora"),
        "adapter.lora.alpha": float32(alpha),
      };
      const tensors = tensorsFor(dtype);
      await writeGguf(storage, joinPath(staging, `${title}-lora-${dtype}.gguf`), { metadata, tensors });
    }
    const about = { adapter, ...options, title, library: "llama.cpp" };
    await writeFiles(storage, staging, await cardFiles(storage, model.folder, about));
  });
}

function formOf(model: PretrainedModel): GgufForm {
  const form = model.gguf();
  if (form === undefined)
    throw noForm(model.folder, `llama.cpp has no models of the family ${model.modelType} in this form.`);
  if (form.problems.length === 0) return form;
  throw noForm(model.folder, listing(`llama.cpp's architecture "${form.architecture}" does not have:`, form.problems));
}

function described(
  { architecture }: GgufForm,
  about: { readonly kind: string; readonly title: string; readonly baseModel: string; readonly dtype: GgufTypeName },
): GgufMetadata {
  return {
    "general.architecture": text(architecture),
    "general.type": text(about.kind),
    "general.name": text(about.title),
    "general.base_model.count": uint32(1),
    "general.base_model.0.name": text(about.baseModel),
    "general.file_type": uint32(fileTypes[about.dtype]),
  };
}

function prefixed({ architecture, metadata }: GgufForm): GgufMetadata {
  return Object.fromEntries(Object.entries(metadata).map(([key, value]) => [`${architecture}.${key}`, value]));
}

function typeFor({ exact }: GgufPart, shape: readonly number[], dtype: GgufTypeName): GgufTypeName {
  if (exact || shape.length < 2) return "f32";
  return (shape.at(-1) ?? 1) % ggufTypes[dtype].block === 0 ? dtype : "f16";
}

/** The tensor of a part, as it is to be written. */
function partOf(part: GgufPart, model: PretrainedModel): Pick<GgufTensor, "shape" | "parts"> {
  const { from, turned, plusOne, rows } = part;
  if (typeof from !== "string") return { shape: [from.length], parts: () => [Float32Array.from(from)] };
  const source = model.weights.get(from)?.source;
  if (source === undefined) throw new Error(`${part.name} is made of ${from}, which the model does not have`);
  const [first = 1, ...rest] = turned ? source.shape.toReversed() : source.shape;
  return {
    shape: [rows?.length ?? first, ...rest],
    parts: async function* () {
      const upright = turned ? wholeSource(transposed(await toFloat32(source))) : source;
      for await (const values of rowParts(upright, rows, ggufPartElements)) {
        if (plusOne) for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) + 1;
        yield values;
      }
    },
  };
}

/** What is in memory already. */
function wholeSource(values: Tensor<"float32">): LazyTensor {
  const { dtype, shape, data } = values;
  return { dtype, shape, sizeBytes: data.byteLength, read: async () => values };
}

/** Some rows of a matrix. */
function rowsOf(values: Tensor<"float32">, rows: readonly number[] | undefined): Tensor<"float32"> {
  if (rows === undefined) return values;
  const [count = 1, ...rest] = values.shape;
  if (rows.length === count && rows.every((row, i) => row === i)) return values;
  const width = values.data.length / count;
  const data = new Float32Array(rows.length * width);
  rows.forEach((row, i) => {
    data.set(values.data.subarray(row * width, (row + 1) * width), i * width);
  });
  return { ...values, shape: [rows.length, ...rest], data };
}

function transposed({ shape: [rows = 1, columns = 1], data }: Tensor<"float32">): Tensor<"float32"> {
  const turned = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = data[i * columns + j] ?? 0;
  return { dtype: "float32", shape: [columns, rows], data: turned };
}
