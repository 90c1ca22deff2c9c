import { openDecoder } from "../../src/generate/index.ts";
import { openModel } from "../../src/models/index.ts";
import { openNodeDevice } from "../../src/runtime/node.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";
import type { Answered } from "./answer.ts";

/** Continue a prompt greedily by the graph that `scion generate` runs, in float32. */
export async function greedy(folder: string, prompt: readonly number[], count: number): Promise<Answered> {
  const started = performance.now();
  const model = await openModel(nodeStorage, folder);
  const device = await openNodeDevice({ worker: false });
  const decoder = await openDecoder(device, model);
  const loaded = performance.now();
  const first = await decoder.start([prompt]);
  const read = performance.now();
  const ids: number[] = [];
  for (let at = first; ; at = await at.next(ids.slice(-1))) {
    const scores = at.logits[0] ?? new Float32Array();
    ids.push(scores.indexOf(scores.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)));
    if (ids.length === count) break;
  }
  const tokenSeconds = (performance.now() - read) / 1000 / (count - 1);
  const logits = [...(first.logits[0] ?? [])];
  await decoder.close();
  await device.close();
  return { loadSeconds: (loaded - started) / 1000, firstSeconds: (read - loaded) / 1000, tokenSeconds, logits, ids };
}
