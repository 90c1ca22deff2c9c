import { TuneError } from "../errors.ts";
import { type LazyTensor, sizeOf, type Tensor } from "../graph/index.ts";
import { type PretrainedModel, tensorsOf } from "./model.ts";

/** The tensors that have a row for every token: embeddings, and an output layer that is not tied to them. */
export function vocabularyTensors({ architecture, json, task, labels, sizes }: PretrainedModel): readonly string[] {
  const choice = { task, ...(labels ? { labels } : {}) };
  const larger = tensorsOf(architecture, { ...json, vocab_size: sizes.vocabSize + 1 }, choice);
  const shapes = new Map(tensorsOf(architecture, json, choice).map(({ name, shape }) => [name, shape.join()]));
  return larger.filter(({ name, shape }) => shapes.get(name) !== shape.join()).map(({ name }) => name);
}

/** No vocabulary grows to more than so many times its size and a few thousand: files of strangers ask for it. */
const mostGrowth = 16;

/**
 * The same model with rows for `size` tokens. New rows are the mean of those there, as transformers' `mean_resizing` makes
 * them but for its noise (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
 * @throws {TuneError} `bad-option` for a packed model, whose codes cannot grow, and for sizes out of all proportion.
 */
export function withVocabulary(model: PretrainedModel, size: number): PretrainedModel {
  if (size <= model.sizes.vocabSize) return model;
  if (size > mostGrowth * (model.sizes.vocabSize + 4096)) {
    throw new TuneError(
      "bad-option",
      `A vocabulary of ${size} tokens is asked for; the model has ${model.sizes.vocabSize}.`,
      {
        at: model.folder,
        fix: "use the tokenizer and the adapter of this model",
      },
    );
  }
  const growing = new Set(vocabularyTensors(model));
  if (model.packed || growing.size === 0) {
    const why = model.packed ? "A packed model's" : `A ${model.modelType} model's`;
    throw new TuneError("bad-option", `${why} vocabulary cannot grow.`, {
      at: model.folder,
      fix: "add tokens to the model in full precision, tune it, and quantise what comes of it",
    });
  }
  const files = new Map(
    [...model.weights].map(([name, { source }]): [string, LazyTensor] => [
      name,
      growing.has(name) ? withMeanRows(source, size) : source,
    ]),
  );
  return model.withTensors(files, { ...model.json, vocab_size: size });
}

/** A float32 tensor [rows, …] with as many rows as `size`, the new ones the mean of the others. */
function withMeanRows({ shape, read }: LazyTensor, size: number): LazyTensor {
  const [rows = 0, ...inner] = shape;
  const grown = [size, ...inner];
  const width = sizeOf(inner);
  return {
    dtype: "float32",
    shape: grown,
    sizeBytes: 4 * sizeOf(grown),
    read: async (): Promise<Tensor> => {
      const { data } = await read();
      const sums = new Float64Array(width);
      for (let i = 0; i < data.length; i++) sums[i % width] = (sums[i % width] ?? 0) + Number(data[i]);
      const values = new Float32Array(sizeOf(grown));
      values.set(data as Float32Array); // weights are read as float32
      const mean = Float32Array.from(sums, (sum) => sum / rows);
      for (let row = rows; row < size; row++) values.set(mean, row * width);
      return { dtype: "float32", shape: grown, data: values };
    },
  };
}
