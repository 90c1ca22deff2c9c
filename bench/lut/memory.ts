/** Prints what decoding a packed folder takes: node --expose-gc --import tsx bench/lut/memory.ts <folder>. */
import { openPackedDecoder } from "../../src/decode/index.ts";
import { openModel } from "../../src/models/index.ts";
import { nodePlatform } from "../../src/runtime/node.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";

const model = await openModel(nodeStorage, process.argv[2] ?? "");
const recipe = model.recipe();
if (recipe === undefined) throw new Error("no recipe");
const collect = (globalThis as { gc?: () => void }).gc;
collect?.();
const before = process.memoryUsage().rss;
const decoder = await openPackedDecoder(model, recipe, nodePlatform.threads, { threads: 1, lookups: "fast" });
const loaded = process.memoryUsage().rss - before;
collect?.(); // what reading left behind
let at = await decoder.start([[1, 5, 9]]);
let decoding = 0;
for (let i = 0; i < 32; i++) {
  at = await at.next([i]);
  decoding = Math.max(decoding, process.memoryUsage().rss - before);
}
await at.end();
await decoder.close();
const kernels = decoder.modelBytes + 36 * decoder.tokenBytes;
console.log(JSON.stringify({ kernels, loaded, decoding }));
