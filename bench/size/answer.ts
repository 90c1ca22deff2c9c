import type { AutoModelForCausalLM, PreTrainedModel, Tensor } from "@huggingface/transformers";

/** What a model makes of a prompt, and how long that took. */
export interface Answered {
  readonly loadSeconds: number;
  /** From the prompt's tokens to the scores of the first new one. */
  readonly firstSeconds: number;
  /** Of each further token. */
  readonly tokenSeconds: number;
  /** Scores after the prompt. */
  readonly logits: readonly number[];
  /** Tokens that are likeliest, one after the other. */
  readonly ids: readonly number[];
}

/** What is asked. */
export interface Asked {
  /** The folder's name below transformers.js's `localModelPath`. */
  readonly folder: string;
  readonly device: "cpu" | "wasm";
  readonly dtype: "fp32" | "fp16" | "q8" | "q4";
  readonly prompt: readonly number[];
  /** New tokens, two at least. */
  readonly count: number;
}

/** Load a folder with transformers.js, here or in a page, and continue a prompt greedily. */
export async function answer(
  transformers: { readonly AutoModelForCausalLM: typeof AutoModelForCausalLM; readonly Tensor: typeof Tensor },
  { folder, device, dtype, prompt, count }: Asked,
): Promise<Answered> {
  const loading = clock();
  const model: PreTrainedModel = await transformers.AutoModelForCausalLM.from_pretrained(folder, { device, dtype });
  const loadSeconds = loading();
  const given = { input_ids: whole(prompt), attention_mask: whole(prompt.map(() => 1)) };
  const reading = clock();
  const { logits } = (await model(given)) as { logits: Tensor }; // as of every causal model
  const firstSeconds = reading();
  const all = logits.data as Float32Array; // in every dtype of ours
  const vocabSize = all.length / prompt.length;
  const generating = clock();
  const output = await model.generate({
    ...{ inputs: given.input_ids, attention_mask: given.attention_mask },
    ...{ max_new_tokens: count, do_sample: false, eos_token_id: [], pad_token_id: 0 },
  });
  const tokenSeconds = (generating() - firstSeconds) / (count - 1);
  const ids = Array.from((output as Tensor).data as BigInt64Array, Number).slice(prompt.length); // tokens are int64
  await model.dispose();
  return { loadSeconds, firstSeconds, tokenSeconds, logits: [...all.subarray(-vocabSize)], ids };

  function whole(values: readonly number[]): Tensor {
    return new transformers.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  }
}

function clock(): () => number {
  const started = performance.now();
  return () => (performance.now() - started) / 1000;
}
