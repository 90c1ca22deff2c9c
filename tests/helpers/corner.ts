import { cp, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openSafetensors, writeSafetensors } from "../../src/io/safetensors.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

/** A corner of a model: its first layer, a quarter as wide, so that everything is quick. */
export async function corner(from: string, to: string): Promise<void> {
  await cp(from, to, { recursive: true });
  const config = JSON.parse(await readFile(join(from, "config.json"), "utf8")) as object; // ours
  const sizes = { num_hidden_layers: 1, hidden_size: 32, intermediate_size: 64, num_attention_heads: 2 };
  const changed = { ...config, ...sizes, num_key_value_heads: 1, head_dim: 16 };
  await writeFile(join(to, "config.json"), JSON.stringify(changed));
  const smaller = new Map([128, 384, 64].map((size, i) => [size, [32, 64, 16][i] as number])); // hidden, intermediate, keys
  const { tensors } = await openSafetensors(nodeStorage, join(from, "model.safetensors"));
  const kept = [...tensors].filter(([name]) => !/layers\.[1-9]/.test(name));
  const read = kept.map(async ([name, tensor]) => {
    const { data } = await tensor.read();
    const shape = tensor.shape.map((size) => smaller.get(size) ?? size);
    const [columns = 1, wide = 1] = [shape.at(-1), tensor.shape.at(-1)];
    const length = shape.reduce((product, size) => product * size, 1);
    const part = Float32Array.from({ length }, (_, i) => Number(data[Math.floor(i / columns) * wide + (i % columns)]));
    return { name, tensor: { dtype: "float32", shape, data: part } as const };
  });
  await writeSafetensors(nodeStorage, join(to, "model.safetensors"), await Promise.all(read));
}
