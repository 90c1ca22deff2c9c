import { closeSync, openSync, writeSync } from "node:fs";
import { float32ToFloat16 } from "../../src/io/convert.ts";
import { llama, maps, randomBytes } from "./shape.ts";

/** Blocks of 256 weights of llama.cpp's k-quants: the type's number, bytes of a block, where its float16 scales are. */
export const kQuants = {
  Q2_K: { code: 10, bytes: 84, halves: [80, 82] },
  Q3_K: { code: 11, bytes: 110, halves: [108] },
} as const;

/** Name of a k-quant. */
export type KQuant = keyof typeof kQuants;

/**
 * Write a random Llama of the benchmark's shape for llama.cpp, every linear map of the layers in one type (`--pure`),
 * embeddings and output layer in float16; bytes of the file.
 */
export function writeRandomGguf(path: string, type: KQuant): number {
  const { code, bytes, halves } = kQuants[type];
  const { vocab_size: vocab, hidden_size: hidden, num_hidden_layers: layers } = llama;
  const half = (value: number): Uint8Array => new Uint8Array(float32ToFloat16(Float32Array.of(value)).buffer);
  const plain = (count: number, seed: number): Uint8Array => {
    const noise = randomBytes(count, seed);
    return new Uint8Array(float32ToFloat16(Float32Array.from(noise, (byte) => (byte - 127.5) / 5000)).buffer);
  };
  const packed = (count: number, seed: number): Uint8Array => {
    const blocks = randomBytes((count / 256) * bytes, seed);
    const scale = half(0.0005);
    for (let at = 0; at < blocks.length; at += bytes) for (const place of halves) blocks.set(scale, at + place);
    return blocks;
  };
  const ones = (count: number): Uint8Array => new Uint8Array(new Float32Array(count).fill(1).buffer);
  interface Entry {
    readonly name: string;
    readonly shape: readonly number[];
    readonly code: number;
    readonly data: () => Uint8Array;
  }
  const entries: Entry[] = [
    { name: "token_embd.weight", shape: [hidden, vocab], code: 1, data: () => plain(hidden * vocab, 1) },
    { name: "output.weight", shape: [hidden, vocab], code: 1, data: () => plain(hidden * vocab, 2) },
    { name: "output_norm.weight", shape: [hidden], code: 0, data: () => ones(hidden) },
  ];
  const names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
  for (let layer = 0; layer < layers; layer++) {
    for (const norm of ["attn_norm", "ffn_norm"]) {
      entries.push({ name: `blk.${layer}.${norm}.weight`, shape: [hidden], code: 0, data: () => ones(hidden) });
    }
    maps.forEach(([, outputs, inputs], i) => {
      const data = (): Uint8Array => packed(outputs * inputs, 100 * layer + i);
      entries.push({ name: `blk.${layer}.${names[i]}.weight`, shape: [inputs, outputs], code, data });
    });
  }
  const sizeOf = (entry: Entry): number => {
    const count = entry.shape.reduce((a, b) => a * b, 1);
    return entry.code === 0 ? 4 * count : entry.code === 1 ? 2 * count : (count / 256) * bytes;
  };
  const tokens = Array.from({ length: vocab }, (_, i) =>
    i < 3
      ? (["<unk>", "<s>", "</s>"][i] ?? "")
      : i < 259
        ? `<0x${(i - 3).toString(16).toUpperCase().padStart(2, "0")}>`
        : `▁w${i}`,
  );
  const metadata: (readonly [string, Buffer])[] = [
    ["general.architecture", text("llama")],
    ["general.quantization_version", u32(2)],
    ["llama.context_length", u32(llama.max_position_embeddings)],
    ["llama.embedding_length", u32(hidden)],
    ["llama.block_count", u32(layers)],
    ["llama.feed_forward_length", u32(llama.intermediate_size)],
    ["llama.attention.head_count", u32(llama.num_attention_heads)],
    ["llama.attention.head_count_kv", u32(llama.num_key_value_heads)],
    ["llama.attention.layer_norm_rms_epsilon", f32(llama.rms_norm_eps)],
    ["llama.rope.dimension_count", u32(llama.head_dim)],
    ["llama.vocab_size", u32(vocab)],
    ["tokenizer.ggml.model", text("llama")],
    ["tokenizer.ggml.tokens", list(8, tokens.map(string))],
    [
      "tokenizer.ggml.scores",
      list(
        6,
        tokens.map((_, i) => f32(-i).subarray(4)),
      ),
    ],
    [
      "tokenizer.ggml.token_type",
      list(
        5,
        tokens.map((_, i) => word(i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)),
      ),
    ],
    ["tokenizer.ggml.bos_token_id", u32(1)],
    ["tokenizer.ggml.eos_token_id", u32(2)],
  ];
  let offset = 0;
  const table = entries.flatMap((entry) => {
    const at = offset;
    offset = Math.ceil((at + sizeOf(entry)) / 32) * 32;
    return [string(entry.name), word(entry.shape.length), ...entry.shape.map(long), word(entry.code), long(at)];
  });
  const head = Buffer.concat([
    Buffer.from("GGUF"),
    ...[word(3), long(entries.length), long(metadata.length)],
    ...metadata.flatMap(([name, value]) => [string(name), value]),
    ...table,
  ]);
  const file = openSync(path, "w");
  let written = 0;
  const put = (data: Uint8Array): void => {
    const padded = Buffer.concat([data, Buffer.alloc(Math.ceil(data.length / 32) * 32 - data.length)]);
    written += writeSync(file, padded);
  };
  put(head);
  for (const entry of entries) put(entry.data());
  closeSync(file);
  return written;
}

function word(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

function long(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer;
}

function string(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([long(bytes.length), bytes]);
}

function u32(value: number): Buffer {
  return Buffer.concat([word(4), word(value)]);
}

function f32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeFloatLE(value);
  return Buffer.concat([word(6), buffer]);
}

function text(value: string): Buffer {
  return Buffer.concat([word(8), string(value)]);
}

function list(type: number, items: readonly Buffer[]): Buffer {
  return Buffer.concat([word(9), word(type), long(items.length), ...items]);
}
