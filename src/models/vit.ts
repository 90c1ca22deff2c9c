import { input, inScope, type Value } from "../graph/index.ts";
import { add, apply, concat, Expand, gemm, reshape, reshapeTo, sizeVector, slice, transpose } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { TensorSpec } from "./architecture.ts";
import { openAttention } from "./attention.ts";
import { dense, layerNormed } from "./blocks.ts";
import type { ConfigJson } from "./config.ts";
import { type Encoder, firstTokens, imageHeads, linearTensors, normTensors } from "./encoder.ts";
import { type PixelScale, pixelInputs } from "./inputs.ts";
import {
  configured,
  flag,
  inert,
  integer,
  type LedgerOf,
  oneOf,
  only,
  optionalInteger,
  optionalObject,
  real,
  side,
} from "./ledger.ts";
import { sharedLedger } from "./shared-ledger.ts";

/** The part of a ViT `config.json` that shapes the computation, and how `preprocessor_config.json` scales pixels. */
export interface VitConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly normEpsilon: number;
  readonly activation: Activation;
  readonly biased: boolean;
  readonly imageSize: number;
  readonly patchSize: number;
  readonly pixels: PixelScale;
}

interface VitSettings {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly head_dim: number | undefined;
  readonly layer_norm_eps: number;
  readonly hidden_act: Activation;
  readonly qkv_bias: boolean;
  readonly image_size: number;
  readonly patch_size: number;
  readonly preprocessor: ConfigJson | undefined;
}

const ledger: LedgerOf<VitSettings> = {
  ...sharedLedger,
  hidden_size: integer("width of the hidden states", 768),
  intermediate_size: integer("width inside the feed-forward", 3072),
  num_hidden_layers: integer("layers", 12),
  num_attention_heads: integer("heads", 12),
  head_dim: optionalInteger("width of a head, which is hidden_size over num_attention_heads"),
  layer_norm_eps: real("added under the root of norms", 1e-12),
  hidden_act: oneOf("the activation function of the feed-forward", activationNames, "gelu"),
  qkv_bias: flag("whether the projections of queries, keys and values have biases", true),
  image_size: side("width and height of an image", 224),
  patch_size: side("width and height of a patch", 16),
  preprocessor: optionalObject("preprocessor_config.json: how pixels are scaled"),
  num_channels: only([3], "images are read in red, green and blue"),
  ...Object.fromEntries(
    ["encoder_stride", "pooler_act", "pooler_output_size"].map((key) => [
      key,
      inert("of a head that is not built here"),
    ]),
  ),
};

/** Patches in a row; pixels beyond the last whole patch are not read. */
const inRow = ({ imageSize, patchSize }: VitConfig): number => Math.floor(imageSize / patchSize);

/** Vision transformer. Dosovitskiy et al. 2020 (arXiv 2010.11929), §3.1; names as in checkpoints of transformers. */
export const vit: Encoder<VitConfig> = {
  modelType: "vit",
  className: "ViT",
  prefix: "vit",
  storedName,
  sizeKeys: {
    hidden_size: "side",
    intermediate_size: "side",
    num_hidden_layers: "layers",
    num_attention_heads: "side",
    patch_size: "side",
  },
  harmless: [
    { names: /(^|\.)pooler\.dense\.(weight|bias)$/, why: "the pooler, which this task does not read" },
    { names: /(^|\.)embeddings\.mask_token$/, why: "what hides patches in pretraining" },
    { names: /^decoder\./, why: "the decoder of pretraining" },
  ],

  ...configured<VitSettings, VitConfig>(ledger, (settings, reader) => {
    const { hidden_size: hiddenSize, num_attention_heads: heads } = settings;
    if (hiddenSize % heads !== 0) {
      reader.problem(`"hidden_size" (${hiddenSize}) is not a multiple of "num_attention_heads" (${heads})`);
    }
    if ((settings.head_dim ?? hiddenSize / heads) !== hiddenSize / heads) {
      reader.problem(
        `"head_dim" is ${settings.head_dim}; supported: ${hiddenSize / heads}, which the other sizes give`,
      );
    }
    if (settings.image_size < settings.patch_size) {
      reader.problem(`"image_size" (${settings.image_size}) is less than "patch_size" (${settings.patch_size})`);
    }
    return {
      hiddenSize,
      intermediateSize: settings.intermediate_size,
      layers: settings.num_hidden_layers,
      heads,
      normEpsilon: settings.layer_norm_eps,
      activation: settings.hidden_act,
      biased: settings.qkv_bias,
      imageSize: settings.image_size,
      patchSize: settings.patch_size,
      pixels: pixelScale(settings.preprocessor ?? {}),
    };
  }),

  sizes: (config) => ({
    vocabSize: 0,
    hiddenSize: config.hiddenSize,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.heads,
    headDim: config.hiddenSize / config.heads,
    contextLength: config.imageSize ** 2,
  }),
  reads: ({ imageSize, pixels }) => pixelInputs(imageSize, pixels),

  tensors: (config) => {
    const { hiddenSize: hidden, intermediateSize: inner, patchSize, biased } = config;
    const linear = (module: string, out: number, into: number, bias = true): readonly TensorSpec[] =>
      linearTensors(module, out, into).slice(0, bias ? 2 : 1);
    return [
      { name: "embeddings.cls_token", shape: [1, 1, hidden] },
      { name: "embeddings.position_embeddings", shape: [1, inRow(config) ** 2 + 1, hidden] },
      { name: "embeddings.patch_embeddings.projection.weight", shape: [hidden, 3, patchSize, patchSize] },
      { name: "embeddings.patch_embeddings.projection.bias", shape: [hidden] },
      ...Array.from({ length: config.layers }, (_, i) => {
        const block = `layers.${i}`;
        return [
          ...["q_proj", "k_proj", "v_proj"].flatMap((name) =>
            linear(`${block}.attention.${name}`, hidden, hidden, biased),
          ),
          ...linear(`${block}.attention.o_proj`, hidden, hidden),
          ...normTensors(`${block}.layernorm_before`, hidden),
          ...normTensors(`${block}.layernorm_after`, hidden),
          ...linear(`${block}.mlp.fc1`, inner, hidden),
          ...linear(`${block}.mlp.fc2`, hidden, inner),
        ];
      }).flat(),
      ...normTensors("layernorm", hidden),
    ];
  },

  encode: (config, weights, rows) => {
    const { hiddenSize, heads, imageSize, patchSize, normEpsilon } = config;
    const across = inRow(config);
    const [seq, headDim] = [across ** 2 + 1, hiddenSize / heads];
    const pixels = input("pixel_values", "float32", [rows, 3, imageSize, imageSize]);
    const attend = openAttention(undefined);
    const embedded = inScope("embeddings", () => {
      // A convolution whose steps are as long as its kernel is a linear map of each patch.
      const whole = across * patchSize;
      const read = whole === imageSize ? pixels : slice(pixels, [0, 0], [whole, whole], [2, 3]);
      const cut = reshapeTo(read, [rows, 3, across, patchSize, across, patchSize], []);
      const patches = reshape(transpose(cut, [0, 2, 4, 1, 3, 5]), [-1, 3 * patchSize ** 2]);
      const kernel = reshape(weights("embeddings.patch_embeddings.projection.weight"), [
        hiddenSize,
        3 * patchSize ** 2,
      ]);
      const bias = weights("embeddings.patch_embeddings.projection.bias");
      const projected = reshapeTo(
        gemm(patches, kernel, { transB: true, c: bias }),
        [rows, seq - 1, hiddenSize],
        [pixels],
      );
      const first = apply(Expand, [weights("embeddings.cls_token"), sizeVector([rows, 1, hiddenSize], [pixels])]);
      return add(concat([first, projected], 1), weights("embeddings.position_embeddings"));
    });
    const split = (x: Value): Value => transpose(reshapeTo(x, [rows, seq, heads, headDim], [pixels]), [0, 2, 1, 3]);
    let x: Value = reshape(embedded, [-1, hiddenSize]);
    for (let i = 0; i < config.layers; i++) {
      const block = `layers.${i}`;
      const before = layerNormed(weights, `${block}.layernorm_before`, x, normEpsilon);
      const [query, key, value] = ["q_proj", "k_proj", "v_proj"].map((name) => {
        const projected = dense(weights, `${block}.attention.${name}`, before, { bias: config.biased });
        return inScope(`${block}.attention`, () => split(projected));
      }) as [Value, Value, Value]; // three names
      const mixed = inScope(`${block}.attention`, () =>
        attend(query, { key, value }, { scale: 1 / Math.sqrt(headDim) }),
      );
      x = add(x, dense(weights, `${block}.attention.o_proj`, mixed, { bias: true }));
      const after = layerNormed(weights, `${block}.layernorm_after`, x, normEpsilon);
      const inner = dense(weights, `${block}.mlp.fc1`, after, { bias: true });
      const active = inScope(`${block}.mlp`, () => activations[config.activation](inner));
      x = add(x, dense(weights, `${block}.mlp.fc2`, active, { bias: true }));
    }
    return { inputs: [pixels], hidden: layerNormed(weights, "layernorm", x, normEpsilon), batch: rows, seq };
  },

  heads: imageHeads({
    module: "classifier",
    tensors: ({ hiddenSize }, labels) => linearTensors("classifier", labels, hiddenSize),
    logits: (_config, weights, encoded) => dense(weights, "classifier", firstTokens(encoded), { bias: true }),
  }),
};

/** Checkpoints keep the names that modules had before transformers 5. */
function storedName(name: string): string {
  const [, front = "", layer, inner] = /^(vit\.)?layers\.(\d+)\.(.*)$/.exec(name) ?? [];
  if (inner === undefined) return name;
  const renamed = Object.entries(olderNames).find(([now]) => inner.startsWith(now));
  const old = renamed ? renamed[1] + inner.slice(renamed[0].length) : inner;
  return `${front}encoder.layer.${layer}.${old}`;
}

const olderNames: Readonly<Record<string, string>> = {
  "attention.q_proj": "attention.attention.query",
  "attention.k_proj": "attention.attention.key",
  "attention.v_proj": "attention.attention.value",
  "attention.o_proj": "attention.output.dense",
  "mlp.fc1": "intermediate.dense",
  "mlp.fc2": "output.dense",
};

/** What `preprocessor_config.json` does to pixels: ViT's own choices where it says nothing. */
function pixelScale(preprocessor: Readonly<Record<string, unknown>>): PixelScale {
  const numbers = (value: unknown): readonly number[] =>
    Array.isArray(value) && value.length === 3 ? value.map(Number) : [0.5, 0.5, 0.5];
  const normalises = preprocessor["do_normalize"] !== false;
  return {
    scale: preprocessor["do_rescale"] === false ? 1 : Number(preprocessor["rescale_factor"] ?? 1 / 255),
    mean: normalises ? numbers(preprocessor["image_mean"]) : [0, 0, 0],
    deviation: normalises ? numbers(preprocessor["image_std"]) : [1, 1, 1],
  };
}
