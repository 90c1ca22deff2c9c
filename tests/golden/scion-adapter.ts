/**
 * Writes scion-adapter/: an adapter of llama-tiny as Scion saves it, for PEFT to load (scion-adapter.py); and with rows of
 * new tokens scion-tokens/ and scion-tokens-tied/, of llama-tiny and llama-rope.
 * Run in the repository: npx tsx tests/golden/scion-adapter.ts
 */
import { writeAdapter } from "../../src/export/index.ts";
import { openModel, withVocabulary } from "../../src/models/index.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";
import { golden } from "../helpers/golden.ts";
import { waveAdapter } from "../helpers/wave-adapter.ts";

const model = await openModel(nodeStorage, golden("llama-tiny"));
await writeAdapter(nodeStorage, golden("scion-adapter"), model, waveAdapter(model), { baseModel: "llama-tiny" });
for (const [folder, base] of [
  ["scion-tokens", "llama-tiny"],
  ["scion-tokens-tied", "llama-rope"],
] as const) {
  const grown = withVocabulary(await openModel(nodeStorage, golden(base)), 66);
  await writeAdapter(nodeStorage, golden(folder), grown, waveAdapter(grown, [3, 64, 65]), { baseModel: base });
}
