import type { ConfigJson } from "./config.ts";
import {
  configured,
  elsewhere,
  inert,
  type Ledger,
  type LedgerOf,
  type Notes,
  only,
  optionalInteger,
  optionalObject,
  optionalOneOf,
  real,
  texts,
} from "./ledger.ts";

/** How the outputs of a classification head are learnt, in transformers' words. */
export type ProblemType = "regression" | "single_label_classification" | "multi_label_classification";

/** What a file says of what its model is for, whatever the family. */
export interface GeneralSettings {
  readonly architectures: readonly string[] | undefined;
  readonly problem_type: ProblemType | undefined;
  readonly id2label: ConfigJson | undefined;
  readonly num_labels: number | undefined;
  readonly initializer_range: number;
}

const problemTypes: readonly ProblemType[] = [
  "regression",
  "single_label_classification",
  "multi_label_classification",
];

const generalLedger: LedgerOf<GeneralSettings> = {
  architectures: texts("the class, which says what the model is for"),
  problem_type: optionalOneOf<ProblemType>(
    "how the outputs of a classification head are learnt",
    Object.fromEntries(problemTypes.map((name) => [name, name])),
  ),
  id2label: optionalObject("names of the labels, by the number of their output"),
  num_labels: optionalInteger("how many labels there are, where id2label does not say"),
  initializer_range: real("spread of what a new head starts with", 0.02),
};

const general = configured<GeneralSettings, GeneralSettings>(generalLedger, (settings) => settings);

/** What `config.json` says of what its model is for. @throws {TuneError} `bad-config`. */
export function readGeneral(json: ConfigJson, notes?: Pick<Notes, "read">): GeneralSettings {
  return general.configure(json, notes?.read ? { read: notes.read } : {});
}

const generation = inert("how to generate is read from generation_config.json, and from what is asked for");
const returned = inert("what a model returns is decided by what it is used for");
const note = inert("a note that changes nothing");
const older = inert("of older versions of transformers, which nothing reads any more");
const device = inert("how PyTorch computes, not what");
const dropout = inert("dropout of the pretrained part is off, in training too; methods have dropout of their own");
const fixed = inert("of a head that is not built here");

/** What every family makes of the keys that transformers' base class and its older versions know. */
export const sharedLedger: Ledger = {
  ...all(generation, [
    "assistant_confidence_threshold assistant_lookbehind bad_words_ids begin_suppress_tokens cache_implementation",
    "diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff",
    "eta_cutoff exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length",
    "max_new_tokens min_length min_new_tokens no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule",
    "num_beam_groups num_beams num_return_sequences output_scores prefix remove_invalid_values repetition_penalty",
    "return_dict_in_generate suppress_tokens target_lookbehind task_specific_params temperature top_k top_p typical_p",
  ]),
  ...all(returned, [
    "output_attentions output_hidden_states output_past return_dict tie_last_hidden_states use_cache use_return_dict",
  ]),
  ...all(note, [
    "_commit_hash _name_or_path finetuning_task language license model_max_length name_or_path tokenizer_class",
    "transformers_version unsloth_fixed unsloth_version",
  ]),
  ...all(older, [
    "cross_attention_hidden_size sep_token_id tf_legacy_loss tie_encoder_decoder torchscript use_bfloat16",
  ]),
  ...all(device, [
    "_attn_implementation _attn_implementation_autoset attn_implementation chunk_size_feed_forward",
    "experts_implementation gradient_checkpointing pretraining_tp",
  ]),
  ...all(dropout, [
    "attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout cls_dropout dropout_rate embd_pdrop",
    "hidden_dropout hidden_dropout_prob pooler_dropout resid_pdrop",
  ]),
  ...all(fixed, [
    "summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels summary_type summary_use_proj",
  ]),
  ...generalLedger,
  auto_map: inert("code in a model's folder is never run"),
  "transformers.js_config": inert("exports write their own"),
  label2id: inert("id2label says the same"),
  tie_word_embeddings: inert("of an output layer over the vocabulary, which this family has none of here"),
  decoder_start_token_id: inert("of a decoder beside an encoder"),
  is_decoder: inert("a decoder is one anyway"),
  preprocessor: inert("of models that read images"),
  model_type: elsewhere("models/table.ts", "which family it is"),
  ...all(elsewhere("io/safetensors.ts", "weights are read in the dtype that their files say"), ["dtype torch_dtype"]),
  quantization_config: elsewhere("io/quantised/index.ts", "how packed or quantised weights are read"),
  ...all(elsewhere("io/tokenizer.ts", "where the tokenizer names no such token"), [
    "bos_token_id eos_token_id pad_token_id",
  ]),
  is_encoder_decoder: only([false], "what the family is"),
  add_cross_attention: only([false], "there is no other model to attend to"),
  pruned_heads: only([{}, []], "pruned heads have other tensors", null),
  per_layer_config: only([{}], "layers of different sizes are not built", null),
};

function all(entry: Ledger[string], names: readonly string[]): Ledger {
  return Object.fromEntries(
    names
      .join(" ")
      .split(" ")
      .map((name) => [name, entry]),
  );
}
