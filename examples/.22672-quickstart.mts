// Teach the bundled model to turn requests in plain English into function calls, see it do so, and take it elsewhere.
import { existsSync, readFileSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { evaluate, exportModel, loadData, loadModel, openSession, tune } from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";

const assets = fileURLToPath(new URL("../assets/quickstart", import.meta.url));
const output = "/tmp/scion-examples-zhSm9e/quickstart-out";
const started = performance.now();

const model = await loadModel(`${assets}/model`, { platform: nodePlatform });
const train = await loadData(model, `${assets}/train.jsonl`);
const heldOut = await loadData(model, `${assets}/heldout.jsonl`);
console.log(
  `\nModel: ${model.pretrained.parameterCount.toLocaleString("en-US")} parameters (${model.pretrained.modelType}).`,
);
console.log(`Task: ${train.train.length} requests to learn from, ${heldOut.train.length} unseen ones to be scored on.`);
console.log(`One of them, with ⟦what is trained⟧:\n  ${train.preview}\n`);

const device = await nodePlatform.openDevice();
const requests = readFileSync(`${assets}/heldout.jsonl`, "utf8")
  .split("\n", 400)
  .filter((_, i) => i % 100 === 7);

async function score(label, adapter) {
  const { exactMatch } = await evaluate(model, heldOut.train, {
    device,
    exactMatch: true,
    ...(adapter ? { adapter } : {}),
  });
  const percent = ((100 * exactMatch.matches) / exactMatch.total).toFixed(1);
  console.log(
    `${label}: ${percent} % of the unseen requests answered exactly right (${exactMatch.matches} of ${exactMatch.total}).`,
  );
  const session = await openSession(model, { device, ...(adapter ? { adapter } : {}) });
  for (const request of requests) {
    const { content } = JSON.parse(request).messages[0];
    const pieces = session.generate([{ role: "user", content }], { maxNewTokens: 48 });
    let step = await pieces.next();
    while (!step.done) step = await pieces.next();
    console.log(`  > ${content}\n    ${step.value.text.replaceAll("\n", " ")}`);
  }
  await session.close();
}

await score("Before tuning", undefined);

// A run that was interrupted goes on from its checkpoint; a finished one is done again.
const interrupted = existsSync(`${output}/run/checkpoint.safetensors`) && !existsSync(`${output}/web`);
if (!interrupted) rmSync(output, { recursive: true, force: true });
const stop = new AbortController();
process.once("SIGINT", () => stop.abort());
console.log("");
const result = await tune(model, train, {
  device,
  method: "lora",
  methodOptions: { rank: 16, alpha: 32 },
  targetModules: "all-linear",
  learningRate: 5e-3,
  schedule: "cosine",
  warmup: 20,
  batchSize: 16,
  epochs: 2,
  output: `${output}/run`,
  resume: interrupted,
  signal: stop.signal,
  onEvent: showProgress,
});
if (result.ended === "interrupted") {
  console.log(`\nSaved at step ${result.step}; run the same command to go on.`);
  await device.close();
  process.exit(130);
}
console.log("\n");
await score("After tuning", result.adapter);

await exportModel(model, "peft", `${output}/adapter`, { adapter: result.adapter });
await exportModel(model, "safetensors", `${output}/merged`, { adapter: result.adapter, device });
await exportModel(model, "transformers.js", `${output}/web`, { adapter: result.adapter, device });
await device.close();

console.log(`
Written in ${((performance.now() - started) / 1000).toFixed(0)} s:
  ${output}/adapter   PEFT adapter:        PeftModel.from_pretrained(model, "${output}/adapter")
  ${output}/merged    merged safetensors:  AutoModelForCausalLM.from_pretrained("${output}/merged")
  ${output}/web       transformers.js:     pipeline("text-generation", "${output}/web")

Try it:
  npx scion chat --model ${output}/merged`);

function showProgress(event) {
  if (event.kind === "start") {
    const share = ((100 * event.trainedParameters) / event.modelParameters).toFixed(1);
    console.log(
      `Tuning ${event.trainedParameters.toLocaleString("en-US")} LoRA parameters (${share} %), ${event.steps} steps:`,
    );
  }
  if (event.kind !== "step") return;
  const { step, steps, loss, tokensPerSecond, remainingMs } = event;
  const line = `step ${step}/${steps}  loss ${loss.toFixed(3)}  ${tokensPerSecond.toFixed(0)} tokens/s  ${(remainingMs / 1000).toFixed(0)} s left`;
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[2K${line}`);
  else if (step % 50 === 0 || step === 1) console.log(line);
}
