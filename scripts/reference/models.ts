import { readdir, readFile } from "node:fs/promises";
import { findArchitecture, supportedModelTypes } from "../../src/models/index.ts";
import { families } from "../../tests/helpers/families.ts";
import { code, page, table } from "./markdown.ts";

const golden = new URL("../../tests/golden/", import.meta.url);

/** What each family is held against, told by what lies among the golden files. */
async function checks(modelType: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const folder of ["families", "encoders"]) {
    const files = await readdir(new URL(`${folder}/`, golden));
    const names: string[] = [];
    for (const file of files.filter((name) => files.includes(`${name}.expected.safetensors`))) {
      const text = await readFile(new URL(`${folder}/${file}/config.json`, golden), "utf8");
      if ((JSON.parse(text) as { model_type?: unknown }).model_type === modelType) names.push(file);
    }
    if (names.length === 0) continue;
    const list = names.map(code).join(", ");
    found.push(`logits of transformers on tiny seeded models (${list})`);
    if (names.some((name) => files.includes(`${name}.curve.safetensors`)))
      found.push("losses of ten steps of PEFT's LoRA");
    if (names.some((name) => files.includes(`${name}.adapted.safetensors`))) found.push("outputs with PEFT's adapters");
    if (folder === "families") found.push("text that transformers.js generates from the exported folder");
  }
  const whole = { llama: "llama-tiny", gpt2: "gpt2-tiny" }[modelType];
  if (whole) found.push(`logits, loss and every gradient of transformers and torch (${code(whole)})`);
  const variants = Object.entries(families).filter(([, config]) => config["model_type"] === modelType);
  if (variants.length > 0)
    found.push(`tokens that llama.cpp generates from the GGUF file (${variants.length} configurations)`);
  return found;
}

/** The page of model families, and a line of them for the README. */
export async function modelsPage(): Promise<{ readonly text: string; readonly summary: string }> {
  const rows: string[][] = [];
  const parts: string[] = [];
  for (const modelType of supportedModelTypes) {
    const family = await findArchitecture({ model_type: modelType }, "the reference");
    const tasks = family.forms.map(({ task }) => task);
    const held = await checks(modelType);
    const gguf = family.forms.some((form) => form.gguf !== undefined);
    rows.push([code(modelType), tasks.join(", "), gguf ? "yes" : "", String(held.length)]);
    parts.push(
      [
        `## ${modelType}`,
        table(
          ["made for", "class in transformers", "output module"],
          family.forms.map((form) => [form.task, form.className, code(form.outputModule)]),
        ),
        `Adapters attach to ${family.defaultTargets.map(code).join(", ")} in PEFT's default; \`all-linear\` is Scion's.`,
        held.length > 0
          ? `Checked against:\n\n${held.map((what) => `- ${what}`).join("\n")}`
          : "Checked by no golden file of its own.",
      ].join("\n\n"),
    );
  }
  const text = page(
    "Models",
    "Families by the `model_type` of their `config.json`. Weights are safetensors in f32, f16 or bf16, sharded or not.",
    table(["model_type", "made for", "GGUF", "kinds of checks"], rows),
    ...parts,
  );
  return { text, summary: supportedModelTypes.map(code).join(", ") };
}
