import { input, inScope, type Value } from "../graph/index.ts";
import { add, gather, places, reshape, tanh } from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { ModelSizes, TensorSpec, Weights } from "./architecture.ts";
import { openAttention } from "./attention.ts";
import { dense, layerNormed, splitHeads } from "./blocks.ts";
import { type Encoder, firstTokens, linearTensors, normTensors, sequenceHeads, tokenHead } from "./encoder.ts";
import { encoderHeads } from "./harmless.ts";
import { tokenInputs } from "./inputs.ts";
import {
  type ConfigReader,
  configured,
  inert,
  integer,
  type Ledger,
  type LedgerOf,
  oneOf,
  only,
  real,
} from "./ledger.ts";
import { sharedLedger } from "./shared-ledger.ts";
import type { SizeKeys } from "./sizes.ts";

/** The part of a BERT `config.json` that shapes the computation. */
export interface BertConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  /** Rows of the position table. */
  readonly positions: number;
  readonly tokenTypes: number;
  readonly normEpsilon: number;
  readonly activation: Activation;
}

/** The keys that the descendants of BERT share; a family's ledger changes their defaults. */
export interface BertSettings {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly max_position_embeddings: number;
  readonly type_vocab_size: number;
  readonly layer_norm_eps: number;
  readonly hidden_act: Activation;
}

/** Keys of heads that Scion does not build, and of Google's own files, which nothing reads. */
const unread: Ledger = Object.fromEntries(
  [
    ...["directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"],
    ...["pooler_size_per_head", "pooler_type"],
  ].map((key) => [key, inert("transformers reads nothing of it")]),
);

/** The ledger of BERT; its descendants change it. */
export const bertLedger: LedgerOf<BertSettings> = {
  ...sharedLedger,
  ...unread,
  vocab_size: integer("tokens in the vocabulary", 30522),
  hidden_size: integer("width of the hidden states", 768),
  intermediate_size: integer("width inside the feed-forward", 3072),
  num_hidden_layers: integer("layers", 12),
  num_attention_heads: integer("heads", 12),
  max_position_embeddings: integer("rows of the table of positions", 512),
  type_vocab_size: integer("rows of the table of token types", 2),
  layer_norm_eps: real("added under the root of norms", 1e-12),
  hidden_act: oneOf("the activation function of the feed-forward", activationNames, "gelu"),
  position_embedding_type: only(["absolute"], "relative positions of BERT are not built"),
  is_decoder: only([false], "an encoder that sees earlier tokens alone is not built"),
  add_cross_attention: only([false], "there is no other model to attend to"),
};

/** What the descendants of BERT say in the same words. */
export function readBert(settings: BertSettings, reader: ConfigReader): BertConfig {
  const { hidden_size: hiddenSize, num_attention_heads: heads } = settings;
  if (hiddenSize % heads !== 0) {
    reader.problem(`"hidden_size" (${hiddenSize}) is not a multiple of "num_attention_heads" (${heads})`);
  }
  return {
    vocabSize: settings.vocab_size,
    hiddenSize,
    intermediateSize: settings.intermediate_size,
    layers: settings.num_hidden_layers,
    heads,
    positions: settings.max_position_embeddings,
    tokenTypes: settings.type_vocab_size,
    normEpsilon: settings.layer_norm_eps,
    activation: settings.hidden_act,
  };
}

/** What they are in `config.json`. */
export const bertSizeKeys: SizeKeys = {
  vocab_size: "side",
  hidden_size: "side",
  intermediate_size: "side",
  num_hidden_layers: "layers",
  num_attention_heads: "side",
  max_position_embeddings: "side",
  type_vocab_size: "table",
};

/** Sizes of a descendant of BERT. */
export function bertSizes({ vocabSize, hiddenSize, layers, heads, positions }: BertConfig): ModelSizes {
  const headDim = hiddenSize / heads;
  return { vocabSize, hiddenSize, layers, heads, kvHeads: heads, headDim, contextLength: positions };
}

/** Tensors of a descendant of BERT, without a pooler. */
export function bertTensors(config: BertConfig): readonly TensorSpec[] {
  const { hiddenSize: hidden, intermediateSize: inner } = config;
  return [
    { name: "embeddings.word_embeddings.weight", shape: [config.vocabSize, hidden] },
    { name: "embeddings.position_embeddings.weight", shape: [config.positions, hidden] },
    { name: "embeddings.token_type_embeddings.weight", shape: [config.tokenTypes, hidden] },
    ...normTensors("embeddings.LayerNorm", hidden),
    ...Array.from({ length: config.layers }, (_, i) => {
      const block = `encoder.layer.${i}`;
      return [
        ...["query", "key", "value"].flatMap((name) =>
          linearTensors(`${block}.attention.self.${name}`, hidden, hidden),
        ),
        ...linearTensors(`${block}.attention.output.dense`, hidden, hidden),
        ...normTensors(`${block}.attention.output.LayerNorm`, hidden),
        ...linearTensors(`${block}.intermediate.dense`, inner, hidden),
        ...linearTensors(`${block}.output.dense`, hidden, inner),
        ...normTensors(`${block}.output.LayerNorm`, hidden),
      ];
    }).flat(),
  ];
}

/** BERT. Devlin et al. 2018 (arXiv 1810.04805); names as in transformers. */
export const bert: Encoder<BertConfig> = {
  modelType: "bert",
  className: "Bert",
  prefix: "bert",
  sizeKeys: bertSizeKeys,
  harmless: encoderHeads,
  sublayers: {
    attention: /.*\.attention\.output\.dense/,
    feedForward: /.*\.layer\.\d+\.output\.dense/,
    normed: true,
  },
  ...configured<BertSettings, BertConfig>(bertLedger, readBert),
  sizes: bertSizes,
  reads: (config) => tokenInputs(config.positions, { types: true, table: true }),
  tensors: bertTensors,
  encode: (config, weights, rows) => {
    const inputIds = input("input_ids", "int64", [rows, "seq"]);
    const attentionMask = input("attention_mask", "int64", [rows, "seq"]);
    const typeIds = input("token_type_ids", "int64", [rows, "seq"]);
    const embedded = inScope("embeddings", () => {
      const words = gather(weights("embeddings.word_embeddings.weight"), inputIds);
      const types = gather(weights("embeddings.token_type_embeddings.weight"), typeIds);
      const at = gather(weights("embeddings.position_embeddings.weight"), places(inputIds, 1));
      return add(add(words, types), at);
    });
    const hidden = bertLayers(config, weights, { inputIds, attentionMask, embedded });
    return { inputs: [inputIds, attentionMask, typeIds], hidden, batch: rows, seq: "seq" };
  },
  heads: {
    ...sequenceHeads({
      module: "classifier",
      tensors: ({ hiddenSize }, labels) => [
        ...linearTensors("bert.pooler.dense", hiddenSize, hiddenSize),
        ...linearTensors("classifier", labels, hiddenSize),
      ],
      logits: (_config, weights, encoded) => {
        const pooled = dense(weights, "bert.pooler.dense", firstTokens(encoded), { bias: true });
        return dense(weights, "classifier", tanh(pooled), { bias: true });
      },
    }),
    "token-classification": tokenHead(bertSizes),
  },
};

/** The layers of a descendant of BERT: embedded [batch, seq, hidden] -> [batch·seq, hidden]. */
export function bertLayers(
  config: BertConfig,
  weights: Weights,
  { inputIds, attentionMask, embedded }: Readonly<Record<"inputIds" | "attentionMask" | "embedded", Value>>,
): Value {
  const { hiddenSize, heads, normEpsilon } = config;
  const headDim = hiddenSize / heads;
  const attend = openAttention(attentionMask);
  const flat = reshape(embedded, [-1, hiddenSize]);
  let x = layerNormed(weights, "embeddings.LayerNorm", flat, normEpsilon);
  for (let i = 0; i < config.layers; i++) {
    const block = `encoder.layer.${i}`;
    const from = x;
    const [query, key, value] = ["query", "key", "value"].map((name) => {
      const projected = dense(weights, `${block}.attention.self.${name}`, from, { bias: true });
      return inScope(`${block}.attention.self`, () => splitHeads(projected, inputIds, heads, headDim));
    }) as [Value, Value, Value]; // three names
    const mixed = inScope(`${block}.attention.self`, () =>
      attend(query, { key, value }, { scale: 1 / Math.sqrt(headDim) }),
    );
    const attended = dense(weights, `${block}.attention.output.dense`, mixed, { bias: true });
    const between = layerNormed(weights, `${block}.attention.output.LayerNorm`, add(attended, from), normEpsilon);
    const inner = dense(weights, `${block}.intermediate.dense`, between, { bias: true });
    const active = inScope(`${block}.intermediate`, () => activations[config.activation](inner));
    const fed = dense(weights, `${block}.output.dense`, active, { bias: true });
    x = layerNormed(weights, `${block}.output.LayerNorm`, add(fed, between), normEpsilon);
  }
  return x;
}
