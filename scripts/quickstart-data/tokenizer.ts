import { type Bpe, splitPattern } from "./bpe.ts";

/** The marks of the chat format; their ids are their places in this list. */
export const marks: readonly string[] = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"];

/** The ids that `config.json` and `generation_config.json` name. */
export const markIds = { pad: 0, bos: 1, eos: 2 } as const;

/** The longest sequence the model is made for, in tokens. */
export const contextLength = 256;

const chatTemplate =
  "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}" +
  "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** What `tokenizer.json` holds, in the format of Hugging Face's tokenizers library. */
export function tokenizerJson({ tokens, merges }: Bpe): unknown {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: marks.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: splitPattern }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<|bos|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: "<|bos|>", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { "<|bos|>": { id: "<|bos|>", ids: [markIds.bos], tokens: ["<|bos|>"] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries([...marks, ...tokens].map((token, id) => [token, id])),
      merges,
    },
  };
}

/** What `tokenizer_config.json` holds: the marks by role and the chat template. */
export function tokenizerConfig(): unknown {
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: "<|bos|>",
    eos_token: "<|eos|>",
    pad_token: "<|pad|>",
    additional_special_tokens: ["<|system|>", "<|user|>", "<|assistant|>"],
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
    padding_side: "right",
    chat_template: chatTemplate,
  };
}
