/**
 * Writes scion-adapter/: an adapter of llama-tiny as Scion saves it, for PEFT to load (scion-adapter.py).
 * Run in the repository: npx tsx tests/golden/scion-adapter.ts
 */
import { writeAdapter } from "../../src/export/index.ts";
import { openModel } from "../../src/models/index.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";
import { golden } from "../helpers/golden.ts";
import { waveAdapter } from "../helpers/wave-adapter.ts";

const model = await openModel(nodeStorage, golden("llama-tiny"));
await writeAdapter(nodeStorage, golden("scion-adapter"), model, waveAdapter(model), { baseModel: "llama-tiny" });
