import { fileURLToPath } from "node:url";
import { exportModel, generate, loadData, loadModel, tune } from "scionwood";
import { nodePlatform } from "scionwood/node";

const quickstart = fileURLToPath(new URL("assets/quickstart", import.meta.resolve("scionwood/package.json")));
const model = await loadModel(`${quickstart}/model`, { platform: nodePlatform }); // a folder, or an id on the hub
const data = await loadData(model, `${quickstart}/train.jsonl`, { validation: 0.1 });

const { adapter, best } = await tune(model, data, {
  method: "lora",
  methodOptions: { rank: 8, alpha: 16 },
  targetModules: "all-linear",
  learningRate: 5e-3,
  maxSteps: 20,
  onEvent: (event) => event.kind === "step" && console.log(event.step, event.loss),
});
console.log("validation loss", best?.loss);

const request = [{ role: "user", content: "Wake me up at seven" }];
for await (const text of generate(model, request, { adapter, maxNewTokens: 40 })) process.stdout.write(text);

await exportModel(model, "peft", "runs/example/adapter", { adapter });
await exportModel(model, "transformers.js", "runs/example/web", { adapter });
