/**
 * Pretrains the quickstart's model with Scion's own full tuning, from random weights to `assets/quickstart/model`:
 * `npx tsx scripts/make-quickstart-data.ts && npx tsx scripts/pretrain-quickstart.ts [--steps 5500]`.
 * It takes about a quarter of an hour on two cores; killed and started again, it goes on from its last checkpoint.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { readJsonObject } from "../src/io/json.ts";
import { writeModelWeights } from "../src/io/model-weights.ts";
import { loadTokenizer } from "../src/io/tokenizer.ts";
import { createRng } from "../src/linalg/index.ts";
import { chooseMethod } from "../src/methods/index.ts";
import { assembleModel, findArchitecture, tensorsOf } from "../src/models/index.ts";
import { openNodeDevice } from "../src/runtime/node.ts";
import { nodeStorage } from "../src/runtime/node-storage.ts";
import { readDataset, tokenizeDataset } from "../src/train/data/index.ts";
import { train } from "../src/train/run.ts";
import { resolveSettings } from "../src/train/settings.ts";

const { values } = parseArgs({ options: { steps: { type: "string", default: "5500" } } });
const root = fileURLToPath(new URL("..", import.meta.url));
const folder = `${root}assets/quickstart/model`;
const cache = `${root}.cache/quickstart`;

const json = await readJsonObject(nodeStorage, `${folder}/config.json`);
const architecture = await findArchitecture(json, folder);
const tokenizer = await loadTokenizer(nodeStorage, folder);
const corpus = await readDataset(nodeStorage, `${cache}/pretrain.jsonl`);
const model = assembleModel({ folder, json, architecture, files: randomWeights(json["initializer_range"]) });
const { contextLength } = model.sizes;
const { examples } = tokenizeDataset(corpus, tokenizer, { maxLength: contextLength });

const device = await openNodeDevice({ threads: 2 });
const { adapter } = await train({
  device,
  model,
  choice: chooseMethod("full"),
  targets: "all-linear",
  settings: resolveSettings({
    learningRate: 3e-3,
    schedule: "cosine",
    warmup: 100,
    batchSize: 16,
    maxSteps: Number(values.steps),
    optimizerOptions: { beta2: 0.98, weightDecay: 0.1 },
    checkpointEvery: 250,
    seed: 20,
  }),
  train: examples.slice(0, -64),
  validation: examples.slice(-64),
  padId: tokenizer.padId ?? 0,
  folder: { storage: nodeStorage, path: `${cache}/run` },
  resume: true,
  onEvent: (event) => {
    if (event.kind === "evaluation") console.log(`update ${event.step}: validation loss ${event.loss.toFixed(4)}`);
    if (event.kind === "step" && event.step % 100 === 0) {
      console.log(
        `${event.step}/${event.steps} loss ${event.loss.toFixed(4)}, ${Math.round(event.remainingMs / 1000)} s left`,
      );
    }
  },
});
await device.close();
const entries = [...adapter.parameters].map(([name, tensor]) => ({ name, tensor }));
await writeModelWeights(nodeStorage, folder, entries);

/** Normal with the config's standard deviation; norms start at one. */
function randomWeights(deviation: unknown): Parameters<typeof assembleModel>[0]["files"] {
  const specs = tensorsOf(architecture, json);
  return new Map(
    specs.map(({ name, shape }) => {
      const size = shape.reduce((product, dim) => product * dim, 1);
      const read = async () => {
        const rng = createRng(20, "pretrain", name);
        const data = Float32Array.from({ length: size }, () =>
          shape.length === 1 ? 1 : Number(deviation) * rng.normal(),
        );
        return { dtype: "float32", shape, data } as const;
      };
      return [name, { dtype: "float32", shape, sizeBytes: 4 * size, read }];
    }),
  );
}
