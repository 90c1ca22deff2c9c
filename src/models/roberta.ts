import { constant, input, inScope } from "../graph/index.ts";
import { add, apply, CumSum, cast, equal, gather, mul, not, tanh } from "../ops/index.ts";
import {
  type BertConfig,
  type BertSettings,
  bertLayers,
  bertLedger,
  bertSizeKeys,
  bertSizes,
  bertTensors,
  readBert,
} from "./bert.ts";
import { dense } from "./blocks.ts";
import { type Encoder, firstTokens, linearTensors, sequenceHeads, tokenHead } from "./encoder.ts";
import { encoderHeads } from "./harmless.ts";
import { tokenInputs } from "./inputs.ts";
import { configured, integer } from "./ledger.ts";

/** BERT's, and where positions begin. */
export interface RobertaConfig extends BertConfig {
  readonly padId: number;
}

interface RobertaSettings extends BertSettings {
  readonly pad_token_id: number;
}

const sizes: Encoder<RobertaConfig>["sizes"] = (config) => ({
  ...bertSizes(config),
  contextLength: config.positions - config.padId - 1,
});

/**
 * RoBERTa. Liu et al. 2019 (arXiv 1907.11692). BERT but for positions, which count tokens that are not padding from the
 * padding token's id on, and a head of two layers on the first token.
 */
export const roberta: Encoder<RobertaConfig> = {
  modelType: "roberta",
  className: "Roberta",
  prefix: "roberta",
  sizeKeys: bertSizeKeys,
  harmless: encoderHeads,
  sublayers: {
    attention: /.*\.attention\.output\.dense/,
    feedForward: /.*\.layer\.\d+\.output\.dense/,
    normed: true,
  },
  ...configured<RobertaSettings, RobertaConfig>(
    {
      ...bertLedger,
      vocab_size: integer("tokens in the vocabulary", 50265),
      pad_token_id: integer("positions are counted from it, over tokens that are not it", 1),
    },
    (settings, reader) => ({ ...readBert(settings, reader), padId: settings.pad_token_id }),
  ),
  sizes,
  reads: (config) => tokenInputs(sizes(config).contextLength, { table: true }),
  tensors: bertTensors,
  encode: (config, weights, rows) => {
    const inputIds = input("input_ids", "int64", [rows, "seq"]);
    const attentionMask = input("attention_mask", "int64", [rows, "seq"]);
    const embedded = inScope("embeddings", () => {
      const words = gather(weights("embeddings.word_embeddings.weight"), inputIds);
      const types = gather(weights("embeddings.token_type_embeddings.weight"), constant(0, "int64"));
      const present = cast(not(equal(inputIds, config.padId)), "int64");
      const counted = mul(apply(CumSum, [present, constant(1, "int64")]), present);
      const at = gather(weights("embeddings.position_embeddings.weight"), add(counted, config.padId));
      return add(add(words, types), at);
    });
    const hidden = bertLayers(config, weights, { inputIds, attentionMask, embedded });
    return { inputs: [inputIds, attentionMask], hidden, batch: rows, seq: "seq" };
  },
  heads: {
    ...sequenceHeads({
      module: "classifier",
      tensors: ({ hiddenSize }, labels) => [
        ...linearTensors("classifier.dense", hiddenSize, hiddenSize),
        ...linearTensors("classifier.out_proj", labels, hiddenSize),
      ],
      logits: (_config, weights, encoded) => {
        const inner = dense(weights, "classifier.dense", firstTokens(encoded), { bias: true });
        return dense(weights, "classifier.out_proj", tanh(inner), { bias: true });
      },
    }),
    "token-classification": tokenHead(sizes),
  },
};
