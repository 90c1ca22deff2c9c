/**
 * Writes the bundled quickstart's data: `npx tsx scripts/make-quickstart-data.ts [folder for the pretraining corpus]`.
 * Everything in `assets/quickstart` but the weights and the README comes from here, byte for byte the same each time;
 * the pretraining corpus goes to `.cache/quickstart` and is not committed.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeQuickstartData } from "./quickstart-data/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const assets = join(root, "assets/quickstart");
const cache = process.argv[2] ?? join(root, ".cache/quickstart");

const { corpus, files } = makeQuickstartData();
mkdirSync(join(assets, "model"), { recursive: true });
mkdirSync(cache, { recursive: true });
for (const [path, text] of Object.entries(files)) writeFileSync(join(assets, path), text);
writeFileSync(join(cache, "pretrain.jsonl"), corpus.map((text) => `${JSON.stringify({ text })}\n`).join(""));
