import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type LazyTensor, sizeOf, type Tensor } from "../../src/graph/index.ts";
import { writeModelWeights } from "../../src/io/model-weights.ts";
import { type OnnxTensor, openOnnx } from "../../src/io/onnx/read.ts";
import { openModel } from "../../src/models/index.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

/**
 * A model folder with the very numbers that a q4 export of `model` holds, in float32: what the export's text is compared with.
 * Tied embeddings come apart, as the export holds them in 8 bits and the output layer in 4.
 */
export async function unpackWeb(web: string, model: string, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const { initializers } = await openOnnx(nodeStorage, join(web, "onnx/model_q4.onnx"));
  const config = JSON.parse(await readFile(join(model, "config.json"), "utf8")) as Record<string, unknown>; // an object, or it would not open
  const { weights } = await openModel(nodeStorage, model);
  const held = (name: string): OnnxTensor | undefined => initializers.get(name);
  const entries: { name: string; tensor: LazyTensor }[] = [];
  let tied = false;
  for (const [name, { source }] of weights) {
    const { shape } = source;
    const add = (as: string, read: () => Promise<Tensor["data"]>): void => {
      const tensor = async (): Promise<Tensor> =>
        ({ dtype: "float32", shape, data: await read() }) as Tensor<"float32">; // read gives that
      entries.push({ name: as, tensor: { dtype: "float32", shape, sizeBytes: 4 * sizeOf(shape), read: tensor } });
    };
    const [rows, rowScales] = [held(`${name}_rows_quantized`), held(`${name}_rows_scale`)];
    const [codes, scales] = [held(`${name}_q4`), held(`${name}_q4_scales`)];
    const plain = held(name);
    if (rows && rowScales) add(name, () => rowsOf(rows, rowScales));
    if (codes && scales) {
      add(rows ? "lm_head.weight" : name, () => blocksOf(codes, scales, shape));
      tied ||= rows !== undefined;
    }
    if (plain) add(name, async () => (await plain.read()).data);
    if (!rows && !codes && !plain) throw new Error(`the export has no ${name}`);
  }
  await writeModelWeights(nodeStorage, folder, entries);
  const said = { ...config, torch_dtype: "float32", ...(tied ? { tie_word_embeddings: false } : {}) };
  await writeFile(join(folder, "config.json"), JSON.stringify(said));
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) await cp(join(model, file), join(folder, file));
}

/** scale·(code − 128), a scale for each row. */
async function rowsOf(codes: OnnxTensor, scales: OnnxTensor): Promise<Float32Array> {
  const [bytes, each] = [(await codes.read()).data as Uint8Array, (await scales.read()).data as Float32Array]; // as exported
  const width = codes.shape[1] ?? 1;
  const values = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) values[i] = ((bytes[i] ?? 0) - 128) * (each[Math.floor(i / width)] ?? 0);
  return values;
}

/** scale·(code − 8) of MatMulNBits: blocks of 32 along a row, the first code of a byte in its lower half. */
async function blocksOf(codes: OnnxTensor, scales: OnnxTensor, shape: readonly number[]): Promise<Float32Array> {
  const [bytes, each] = [(await codes.read()).data as Uint8Array, (await scales.read()).data as Float32Array]; // as exported
  const [outs = 1, ins = 1] = shape;
  const [, blocks = 1] = codes.shape;
  const values = new Float32Array(outs * ins);
  for (let o = 0; o < outs; o++)
    for (let i = 0; i < ins; i++) {
      const block = o * blocks + (i >> 5);
      const byte = bytes[16 * block + ((i & 31) >> 1)] ?? 0;
      values[o * ins + i] = (((i & 1) === 0 ? byte & 15 : byte >> 4) - 8) * (each[block] ?? 0);
    }
  return values;
}
