import { readdir, readFile } from "node:fs/promises";
import { findArchitecture, supportedModelTypes } from "../../src/models/index.ts";
import { families } from "../../tests/helpers/families.ts";
import { readGolden } from "../../tests/helpers/golden.ts";
import { by, type Check, inWords } from "./checked.ts";
import { code, page, table } from "./markdown.ts";

const golden = new URL("../../tests/golden/", import.meta.url);

/** The models of a family in a folder of golden files, each with what is expected of it beside. */
async function modelsOf(modelType: string, folder: string): Promise<readonly string[]> {
  const files = await readdir(new URL(folder, golden));
  const found: string[] = [];
  for (const name of files.filter((file) => files.includes(`${file}.expected.safetensors`))) {
    const config = await readFile(new URL(`${folder}${name}/config.json`, golden), "utf8").catch(() => "{}"); // an adapter
    if ((JSON.parse(config) as { model_type?: unknown }).model_type === modelType) found.push(name);
  }
  return found;
}

/** What a model of its own is held against, told by what is expected of it. */
async function ownCheck(name: string): Promise<Check> {
  const keys = [...(await readGolden(`${name}.expected.safetensors`)).keys()];
  if (keys.some((key) => key.startsWith("grad.")))
    return by(`logits, loss and every gradient of transformers and torch on ${code(name)}`, "tests/golden.test.ts");
  if (keys.includes("embeddings"))
    return by(`logits and embeddings of its papers' formulas in torch on ${code(name)}`, "tests/encoders.test.ts");
  const others = (await readdir(golden)).filter((file) => file.startsWith(`${name}.`) && file.endsWith(".json"));
  const scalings = ["as Llama 3", ...others.map((file) => file.slice(name.length + 1, -".json".length))];
  return by(`logits of transformers on ${code(name)}, positions scaled ${scalings.join(", ")}`, "tests/golden.test.ts");
}

/** What each family is held against, told by what lies among the golden files. */
async function checks(modelType: string): Promise<readonly Check[]> {
  const found: Check[] = [];
  for (const name of await modelsOf(modelType, "")) found.push(await ownCheck(name));
  for (const [folder, test] of [
    ["families/", "tests/golden.test.ts"],
    ["encoders/", "tests/encoders.test.ts"],
  ] as const) {
    const names = await modelsOf(modelType, folder);
    const files = await readdir(new URL(folder, golden));
    const some = (end: string): boolean => names.some((name) => files.includes(`${name}.${end}.safetensors`));
    if (names.length > 0)
      found.push(by(`outputs of transformers on tiny seeded models (${names.map(code).join(", ")})`, test));
    if (some("curve")) found.push(by("losses of ten updates of PEFT's LoRA", test));
    if (some("adapted")) found.push(by("outputs with PEFT's adapters", test));
    if (names.length > 0 && folder === "families/")
      found.push(by("tokens that transformers.js generates from the exported folder", "tests/transformers-js.test.ts"));
  }
  const configurations = Object.values(families).filter((config) => config["model_type"] === modelType).length;
  const many = `${configurations} configuration${configurations === 1 ? "" : "s"}`;
  if (configurations > 0)
    found.push(by(`tokens that llama.cpp generates from the GGUF file (${many})`, "tests/gguf.test.ts"));
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
        held.length > 0
          ? `Checked against:\n\n${held.map((check) => `- ${inWords(check)}`).join("\n")}`
          : "Checked by no golden file of its own.",
      ].join("\n\n"),
    );
  }
  const text = page(
    "Models",
    "Families by the `model_type` of their `config.json`. Weights are safetensors in f32, f16 or bf16, sharded or not (`src/io/convert.test.ts`, `src/io/model-weights.test.ts`).",
    table(["model_type", "made for", "GGUF", "kinds of checks"], rows),
    ...parts,
  );
  return { text, summary: supportedModelTypes.map(code).join(", ") };
}
