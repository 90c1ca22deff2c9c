import { contextLength, markIds } from "./tokenizer.ts";

/** What `config.json` holds: a Llama small enough to ship, sized by what the task needs. */
export function modelConfig(vocabSize: number): unknown {
  return {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    vocab_size: vocabSize,
    hidden_size: 128,
    intermediate_size: 384,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    hidden_act: "silu",
    max_position_embeddings: contextLength,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    attention_bias: false,
    attention_dropout: 0,
    mlp_bias: false,
    tie_word_embeddings: true,
    initializer_range: 0.02,
    bos_token_id: markIds.bos,
    eos_token_id: markIds.eos,
    pad_token_id: markIds.pad,
    torch_dtype: "float32",
    use_cache: true,
  };
}

/** What `generation_config.json` holds: greedy decoding, ended by `<|eos|>`. */
export function generationConfig(): unknown {
  return {
    bos_token_id: markIds.bos,
    eos_token_id: markIds.eos,
    pad_token_id: markIds.pad,
    do_sample: false,
    max_new_tokens: 64,
  };
}
