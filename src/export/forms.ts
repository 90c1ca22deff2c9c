import { sizeOf } from "../graph/index.ts";
import { type GgufTypeName, ggufTypes } from "../io/gguf.ts";
import type { Storage } from "../io/storage.ts";
import type { Adapter } from "../methods/index.ts";
import type { PretrainedModel } from "../models/index.ts";
import { writeAdapter } from "./adapter-files.ts";
import { writeAdapterHubFolder } from "./adapterhub-files.ts";
import { asLora } from "./as-lora.ts";
import { writeGgufAdapter, writeGgufFolder } from "./gguf.ts";
import { writeMlx } from "./mlx-files.ts";
import type { CardOptions } from "./model-card.ts";
import { type OnnxDtypeName, onnxDtypes } from "./onnx-dtypes.ts";
import { onnxBytes } from "./onnx-files.ts";
import { writePackedWithScales, writeScales } from "./packed-folder.ts";
import { writeSafetensorsFolder } from "./safetensors-folder.ts";
import { writeTransformersJsFolder } from "./transformers-js.ts";

/** What some forms may be told besides: those that say so in `takes`. */
export interface FormOptions {
  /** Weights of more bytes go beside the graph (`transformers.js`). */
  readonly externalDataBytes?: number;
  /** Those beside the graph are split into files of at most this (`transformers.js`); 1.9 GB, which a page can hold. */
  readonly maxDataBytes?: number;
  /** Files larger than this are split (`safetensors`). */
  readonly maxShardBytes?: number;
  /** How llama.cpp cuts texts, where the tokenizer is like none of its own (`gguf`). */
  readonly preTokenizer?: string;
}

/** What a writer may be told besides what it writes. */
export interface WriteOptions extends CardOptions, FormOptions {
  /** How numbers are held: names among the form's `dtypes`. */
  readonly dtypes: readonly string[];
}

interface FormBase {
  /** What is written. */
  readonly summary: string;
  /** How it is loaded. */
  readonly use: string;
  /** What its numbers can be held in; the first unless something is asked for. Empty where there is one way. */
  readonly dtypes: readonly string[];
  /** What it can be told besides. */
  readonly takes?: readonly (keyof FormOptions)[];
}

/** A form that holds the adapter alone, to be used with its base model. */
interface AdapterForm extends FormBase {
  readonly holds: "adapter";
  readonly write: (
    storage: Storage,
    folder: string,
    model: PretrainedModel,
    adapter: Adapter,
    options: WriteOptions,
  ) => Promise<void>;
}

/** A form that holds a model; an adapter has been folded in before. */
interface ModelForm extends FormBase {
  readonly holds: "model";
  /** Bytes that it takes at least, in one of its dtypes. */
  readonly leastBytes: (model: PretrainedModel, dtype: string) => number;
  readonly write: (storage: Storage, folder: string, model: PretrainedModel, options: WriteOptions) => Promise<void>;
}

/** Name of a form. */
export type ExportFormName =
  | "transformers.js"
  | "safetensors"
  | "gguf"
  | "peft"
  | "lora"
  | "mlx"
  | "gguf-lora"
  | "adapterhub"
  | "scales"
  | "packed";

/** Every form that a tuned model can be written in. Adding one is adding a record here, and its name above. */
export const exportForms: Readonly<Record<ExportFormName, AdapterForm | ModelForm>> = {
  "transformers.js": {
    summary: "a folder with the model as an ONNX graph with a KV cache",
    use: 'pipeline("text-generation", folder, { dtype })',
    dtypes: Object.keys(onnxDtypes),
    takes: ["externalDataBytes", "maxDataBytes"],
    holds: "model",
    leastBytes: (model, dtype) => onnxBytes(model, onnxDtype(dtype)),
    write: async (storage, folder, model, options) => {
      await writeTransformersJsFolder(storage, folder, model, { ...options, dtypes: options.dtypes.map(onnxDtype) });
    },
  },
  safetensors: {
    summary: "merged weights in the Hugging Face layout",
    use: "AutoModelForCausalLM.from_pretrained(folder)",
    dtypes: [],
    takes: ["maxShardBytes"],
    holds: "model",
    leastBytes: ({ weights }) => [...weights.values()].reduce((sum, { source }) => sum + source.sizeBytes, 0),
    write: writeSafetensorsFolder,
  },
  gguf: {
    summary: "the model with its tokenizer in one file for llama.cpp, Ollama and LM Studio",
    use: "llama-cli -m folder/name-f16.gguf, or ollama create name -f folder/Modelfile",
    dtypes: ["f16", "q8_0", "f32"],
    takes: ["preTokenizer"],
    holds: "model",
    leastBytes: (model, dtype) => {
      const { block, blockBytes } = ggufTypes[ggufType(dtype)];
      return bytesAt(model, (8 * blockBytes) / block);
    },
    write: async (storage, folder, model, options) => {
      await writeGgufFolder(storage, folder, model, { ...options, dtypes: options.dtypes.map(ggufType) });
    },
  },
  peft: {
    summary: "the adapter alone, for PEFT",
    use: "PeftModel.from_pretrained(base, folder)",
    dtypes: [],
    holds: "adapter",
    write: writeAdapter,
  },
  lora: {
    summary: "the adapter as PEFT's plain LoRA, whatever the method",
    use: "PeftModel.from_pretrained(base, folder)",
    dtypes: [],
    holds: "adapter",
    write: async (storage, folder, model, adapter, options) =>
      writeAdapter(storage, folder, model, asLora(model, adapter, folder), options),
  },
  mlx: {
    summary: "the adapter alone, for mlx-lm",
    use: "mlx_lm.load(model, adapter_path=folder)",
    dtypes: [],
    holds: "adapter",
    write: writeMlx,
  },
  adapterhub: {
    summary: "an adapter behind sublayers alone, for AdapterHub",
    use: "model.load_adapter(folder)",
    dtypes: [],
    holds: "adapter",
    write: writeAdapterHubFolder,
  },
  "gguf-lora": {
    summary: "the adapter alone, for llama.cpp and Ollama",
    use: "llama-cli -m base.gguf --lora folder/name-lora-f16.gguf",
    dtypes: ["f16", "f32"],
    holds: "adapter",
    write: async (storage, folder, model, adapter, options) => {
      const dtypes = options.dtypes.map(ggufType);
      await writeGgufAdapter(storage, folder, model, asLora(model, adapter, folder), { ...options, dtypes });
    },
  },
  scales: {
    summary: "the tuned scales of a packed model alone",
    use: "scion generate --model packed --adapter folder",
    dtypes: [],
    holds: "adapter",
    write: writeScales,
  },
  packed: {
    summary: "a packed model with tuned scales in place of its own",
    use: "scion generate --model folder",
    dtypes: [],
    holds: "adapter",
    write: writePackedWithScales,
  },
};

/** The bytes of a model's matrices at so many bits a value. */
function bytesAt({ weights }: PretrainedModel, bits: number): number {
  const matrices = [...weights.values()].filter(({ shape }) => shape.length > 1);
  return matrices.reduce((sum, { source }) => sum + (sizeOf(source.shape) * bits) / 8, 0);
}

function ggufType(name: string): GgufTypeName {
  if (Object.hasOwn(ggufTypes, name)) return name as GgufTypeName; // checked just now
  throw new Error(`the form of GGUF has a dtype ${name} that its writer lacks`);
}

function onnxDtype(name: string): OnnxDtypeName {
  if (Object.hasOwn(onnxDtypes, name)) return name as OnnxDtypeName; // checked just now
  throw new Error(`the form of transformers.js has a dtype ${name} that its writer lacks`);
}

/** What the folder of a form is known by: plain LoRA is written as PEFT's adapters are. */
export function folderKind(form: ExportFormName): string {
  return form === "lora" ? "peft" : form;
}
