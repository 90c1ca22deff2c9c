import { constant, constantOf, input, inScope, tensor, type Value } from "../graph/index.ts";
import {
  add,
  apply,
  Clip,
  cast,
  expandLike,
  gather,
  gatherElements,
  matmul,
  mul,
  places,
  reshape,
  softmax,
  sub,
  transpose,
  unsqueeze,
} from "../ops/index.ts";
import { type Activation, activationNames, activations } from "./activations.ts";
import type { ModelSizes, TensorSpec, Weights } from "./architecture.ts";
import { joinHeads, paddingMask } from "./attention.ts";
import { type BertConfig, type BertSettings, bertLedger, bertSizeKeys, bertSizes, readBert } from "./bert.ts";
import { dense, layerNormed, splitHeads } from "./blocks.ts";
import { type Encoder, firstTokens, linearTensors, normTensors, sequenceHeads, tokenHead } from "./encoder.ts";
import { encoderHeads } from "./harmless.ts";
import { tokenInputs } from "./inputs.ts";
import {
  configured,
  flag,
  inert,
  integer,
  type LedgerOf,
  oneOf,
  only,
  optionalInteger,
  real,
  texts,
} from "./ledger.ts";

/** The part of a DeBERTa `config.json` that shapes the computation. */
export interface DebertaConfig extends BertConfig {
  /** Whether positions are added to the embeddings, besides what attention knows of them. */
  readonly absolutePositions: boolean;
  /** Distances are told apart up to this one; those beyond `buckets`/2 ever more coarsely where there are buckets. */
  readonly maxDistance: number;
  readonly buckets: number;
  /** Content to position, and position to content. */
  readonly contentToPosition: boolean;
  readonly positionToContent: boolean;
  /** Whether positions are projected by the layer's own queries and keys. */
  readonly sharedProjections: boolean;
  readonly normedPositions: boolean;
  readonly poolerActivation: Activation;
}

interface DebertaSettings extends BertSettings {
  readonly position_biased_input: boolean;
  readonly max_relative_positions: number;
  readonly position_buckets: number;
  readonly pos_att_type: readonly string[] | undefined;
  readonly norm_rel_ebd: readonly string[] | undefined;
  readonly share_att_key: boolean;
  readonly pooler_hidden_act: Activation;
  readonly pooler_hidden_size: number | undefined;
  readonly embedding_size: number | undefined;
  readonly attention_head_size: number | undefined;
}

const ledger: LedgerOf<DebertaSettings> = {
  ...bertLedger,
  vocab_size: integer("tokens in the vocabulary", 128100),
  hidden_size: integer("width of the hidden states", 1536),
  intermediate_size: integer("width inside the feed-forward", 6144),
  num_hidden_layers: integer("layers", 24),
  num_attention_heads: integer("heads", 24),
  type_vocab_size: integer("rows of the table of token types; without rows there is no table", 0),
  layer_norm_eps: real("added under the root of norms", 1e-7),
  position_biased_input: flag("whether positions are added to the embeddings too", true),
  max_relative_positions: real("distances told apart; max_position_embeddings where it is less than 1", -1),
  position_buckets: real("buckets of distances; none where it is less than 1", -1),
  pos_att_type: texts("c2p: content attends to positions; p2c: positions to content; also as one text, with |"),
  norm_rel_ebd: texts("layer_norm: the table of relative positions is normed"),
  share_att_key: flag("whether positions are projected as content is", false),
  pooler_hidden_act: oneOf("the activation function of a classification head", activationNames, "gelu"),
  pooler_hidden_size: optionalInteger("width of a classification head, which is hidden_size"),
  embedding_size: optionalInteger("width of the embeddings, which is hidden_size"),
  attention_head_size: optionalInteger("width of a head, which is hidden_size over num_attention_heads"),
  relative_attention: only([true], "attention without relative positions is not built", false),
  conv_kernel_size: only([0], "convolutions beside the first layer are not built"),
  conv_act: inert("there are no convolutions"),
  conv_groups: inert("there are no convolutions"),
  legacy: inert("of a head that is not built here"),
};

/** Words in lower case, one or several in a text with bars between. */
function words(said: readonly string[] | undefined): readonly string[] {
  return (said ?? []).flatMap((text) => text.toLowerCase().split("|")).map((word) => word.trim());
}

/** Half of the rows of the table of relative positions. */
function span({ buckets, maxDistance }: DebertaConfig): number {
  return buckets > 0 ? buckets : maxDistance;
}

/** DeBERTa v2 and v3. He et al. 2020 (arXiv 2006.03654), §3.1: attention of content and of relative positions, apart. */
export const debertaV2: Encoder<DebertaConfig> = {
  modelType: "deberta-v2",
  className: "DebertaV2",
  prefix: "deberta",
  sizeKeys: { ...bertSizeKeys, max_relative_positions: "table", position_buckets: "table" },
  harmless: encoderHeads,
  sublayers: {
    attention: /.*\.attention\.output\.dense/,
    feedForward: /.*\.layer\.\d+\.output\.dense/,
    normed: true,
  },

  ...configured<DebertaSettings, DebertaConfig>(ledger, (settings, reader) => {
    const base = readBert(settings, reader);
    const { hiddenSize, heads } = base;
    const fixed = {
      embedding_size: hiddenSize,
      pooler_hidden_size: hiddenSize,
      attention_head_size: hiddenSize / heads,
    };
    const { embedding_size, pooler_hidden_size, attention_head_size } = settings;
    for (const [key, value] of Object.entries({ embedding_size, pooler_hidden_size, attention_head_size })) {
      const supported = fixed[key as keyof typeof fixed]; // the same keys
      if ((value ?? supported) !== supported) reader.problem(`"${key}" is ${value}; supported: ${supported}`);
    }
    const [kinds, norms] = [words(settings.pos_att_type), words(settings.norm_rel_ebd)];
    for (const kind of kinds.filter((name) => !["c2p", "p2c", ""].includes(name))) {
      reader.problem(`"pos_att_type" holds ${JSON.stringify(kind)}; supported: c2p, p2c`);
    }
    const { max_relative_positions: given } = settings;
    return {
      ...base,
      absolutePositions: settings.position_biased_input,
      maxDistance: given < 1 ? base.positions : given,
      buckets: Math.max(0, settings.position_buckets),
      contentToPosition: kinds.includes("c2p"),
      positionToContent: kinds.includes("p2c"),
      sharedProjections: settings.share_att_key,
      normedPositions: norms.includes("layer_norm"),
      poolerActivation: settings.pooler_hidden_act,
    };
  }),

  sizes: (config: DebertaConfig): ModelSizes => bertSizes(config),
  reads: (config) => tokenInputs(config.positions, { types: config.tokenTypes > 0, table: config.absolutePositions }),

  tensors: (config) => {
    const { hiddenSize: hidden, intermediateSize: inner } = config;
    const projections = ["query_proj", "key_proj", "value_proj"];
    if (!config.sharedProjections && config.contentToPosition) projections.push("pos_key_proj");
    if (!config.sharedProjections && config.positionToContent) projections.push("pos_query_proj");
    const specs: TensorSpec[] = [{ name: "embeddings.word_embeddings.weight", shape: [config.vocabSize, hidden] }];
    if (config.absolutePositions)
      specs.push({ name: "embeddings.position_embeddings.weight", shape: [config.positions, hidden] });
    if (config.tokenTypes > 0)
      specs.push({ name: "embeddings.token_type_embeddings.weight", shape: [config.tokenTypes, hidden] });
    specs.push(...normTensors("embeddings.LayerNorm", hidden));
    specs.push({ name: "encoder.rel_embeddings.weight", shape: [2 * span(config), hidden] });
    if (config.normedPositions) specs.push(...normTensors("encoder.LayerNorm", hidden));
    for (let i = 0; i < config.layers; i++) {
      const block = `encoder.layer.${i}`;
      specs.push(
        ...projections.flatMap((name) => linearTensors(`${block}.attention.self.${name}`, hidden, hidden)),
        ...linearTensors(`${block}.attention.output.dense`, hidden, hidden),
        ...normTensors(`${block}.attention.output.LayerNorm`, hidden),
        ...linearTensors(`${block}.intermediate.dense`, inner, hidden),
        ...linearTensors(`${block}.output.dense`, hidden, inner),
        ...normTensors(`${block}.output.LayerNorm`, hidden),
      );
    }
    return specs;
  },

  encode: (config, weights, rows) => {
    const { hiddenSize, heads, normEpsilon } = config;
    const headDim = hiddenSize / heads;
    const inputIds = input("input_ids", "int64", [rows, "seq"]);
    const attentionMask = input("attention_mask", "int64", [rows, "seq"]);
    const typeIds = input("token_type_ids", "int64", [rows, "seq"]);
    const table = (name: string, indices: Value): Value => gather(weights(`embeddings.${name}.weight`), indices);
    const embedded = inScope("embeddings", () => {
      const words = table("word_embeddings", inputIds);
      const placed = config.absolutePositions ? add(words, table("position_embeddings", places(inputIds, 1))) : words;
      return config.tokenTypes > 0 ? add(placed, table("token_type_embeddings", typeIds)) : placed;
    });
    const normed = layerNormed(weights, "embeddings.LayerNorm", reshape(embedded, [-1, hiddenSize]), normEpsilon);
    // Padding is zeroed, so that it cannot be told from nothing.
    const present = reshape(cast(attentionMask, "float32"), [-1, 1]);
    const relative = relativePositions(config, weights, inputIds);
    const mask = inScope("mask", () => paddingMask(attentionMask));
    let x = mul(normed, present);
    for (let i = 0; i < config.layers; i++) {
      const block = `encoder.layer.${i}`;
      const from = x;
      const mixed = disentangled(config, weights, `${block}.attention.self`, {
        x: from,
        inputIds,
        mask,
        relative,
        headDim,
      });
      const attended = dense(weights, `${block}.attention.output.dense`, mixed, { bias: true });
      const between = layerNormed(weights, `${block}.attention.output.LayerNorm`, add(attended, from), normEpsilon);
      const inner = dense(weights, `${block}.intermediate.dense`, between, { bias: true });
      const active = inScope(`${block}.intermediate`, () => activations[config.activation](inner));
      const fed = dense(weights, `${block}.output.dense`, active, { bias: true });
      x = layerNormed(weights, `${block}.output.LayerNorm`, add(fed, between), normEpsilon);
    }
    const inputs = [inputIds, attentionMask, ...(config.tokenTypes > 0 ? [typeIds] : [])];
    return { inputs, hidden: x, batch: rows, seq: "seq" };
  },

  heads: {
    ...sequenceHeads({
      module: "classifier",
      tensors: ({ hiddenSize }, labels) => [
        ...linearTensors("pooler.dense", hiddenSize, hiddenSize),
        ...linearTensors("classifier", labels, hiddenSize),
      ],
      logits: ({ poolerActivation }, weights, encoded) => {
        const pooled = dense(weights, "pooler.dense", firstTokens(encoded), { bias: true });
        return dense(weights, "classifier", activations[poolerActivation](pooled), { bias: true });
      },
    }),
    "token-classification": tokenHead(bertSizes),
  },
};

/** Embeddings of relative positions [2·span, hidden], and which of them each query and key are apart by. */
interface RelativePositions {
  readonly embeddings: Value;
  /** int64 [seq, seq], query by key. */
  readonly indices: Value;
}

function relativePositions(config: DebertaConfig, weights: Weights, inputIds: Value): RelativePositions {
  const table = weights("encoder.rel_embeddings.weight");
  const embeddings = config.normedPositions
    ? layerNormed(weights, "encoder.LayerNorm", table, config.normEpsilon)
    : table;
  const indices = inScope("encoder.rel_embeddings", () => {
    const at = places(inputIds, 1);
    const apart = sub(unsqueeze(at, [1]), unsqueeze(at, [0]));
    // Beyond twice the largest distance that is told apart, all are the same.
    const far = 2 * config.maxDistance;
    const clipped = apply(Clip, [apart, constant(-far, "int64"), constant(far, "int64")]);
    const rows = Int32Array.from({ length: 2 * far + 1 }, (_, i) => {
      const row = bucketOf(i - far, config) + span(config);
      return Math.min(Math.max(row, 0), 2 * span(config) - 1);
    });
    return gather(constantOf(tensor("int64", [rows.length], rows)), add(clipped, far));
  });
  return { embeddings, indices };
}

/**
 * The bucket of a distance: itself up to half of the buckets, then on a logarithmic scale. In float32, as the original
 * computes it.
 */
function bucketOf(distance: number, { buckets, maxDistance }: DebertaConfig): number {
  const middle = Math.floor(buckets / 2);
  const size = Math.abs(distance);
  if (buckets === 0 || size <= middle) return distance;
  const single = Math.fround;
  const share = single(single(Math.log(single(size / middle))) / single(Math.log(single((maxDistance - 1) / middle))));
  return Math.sign(distance) * (Math.ceil(single(share * (middle - 1))) + middle);
}

/**
 * Disentangled attention: Q·Kᵀ + Q·K_rᵀ + K·Q_rᵀ, each over √(terms·d), where K_r and Q_r are projections of the
 * embedding of how far query and key are apart. He et al. 2020, eq. (4). x [tokens, hidden] -> [tokens, hidden].
 */
function disentangled(
  config: DebertaConfig,
  weights: Weights,
  module: string,
  from: {
    readonly x: Value;
    readonly inputIds: Value;
    readonly mask: Value;
    readonly relative: RelativePositions;
    readonly headDim: number;
  },
): Value {
  const { x, inputIds, mask, headDim } = from;
  const { embeddings, indices } = from.relative;
  const { heads, contentToPosition, positionToContent, sharedProjections } = config;
  const project = (name: string, value: Value): Value => dense(weights, `${module}.${name}`, value, { bias: true });
  const [query, key, value] = ["query_proj", "key_proj", "value_proj"].map((name) => {
    const projected = project(name, x);
    return inScope(module, () => splitHeads(projected, inputIds, heads, headDim));
  }) as [Value, Value, Value]; // three names
  /** Rows of positions by head, turned over: [heads, d, 2·span]. */
  const positions = (name: string): Value => {
    const projected = project(sharedProjections ? name : `pos_${name}`, embeddings);
    return inScope(module, () => transpose(reshape(projected, [-1, heads, headDim]), [1, 2, 0]));
  };
  const positionKeys = contentToPosition ? positions("key_proj") : undefined;
  const positionQueries = positionToContent ? positions("query_proj") : undefined;
  return inScope(module, () => {
    const scale = 1 / Math.sqrt(headDim * (1 + Number(contentToPosition) + Number(positionToContent)));
    const scaledQuery = mul(query, scale);
    let scores = matmul(scaledQuery, transpose(key, [0, 1, 3, 2]));
    const chosen = expandLike(unsqueeze(indices, [0, 1]), scores);
    if (positionKeys) scores = add(scores, gatherElements(matmul(scaledQuery, positionKeys), chosen, 3));
    if (positionQueries) {
      const turned = expandLike(unsqueeze(transpose(indices, [1, 0]), [0, 1]), scores);
      const asked = gatherElements(matmul(mul(key, scale), positionQueries), turned, 3);
      scores = add(scores, transpose(asked, [0, 1, 3, 2]));
    }
    return joinHeads(matmul(softmax(add(scores, mask)), value));
  });
}
