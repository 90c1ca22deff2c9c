import { readFile } from "node:fs/promises";
import { Command } from "commander";
import { configSchema } from "../../src/cli/config.ts";
import { commands } from "../../src/cli/index.ts";
import { define } from "../../src/cli/tune.ts";
import { code, page, table } from "./markdown.ts";
import { modelsPage } from "./models.ts";
import { recordPages, summaryRows } from "./records.ts";

const readme = new URL("../../README.md", import.meta.url);
const [start, end] = ["<!-- made by npm run docs -->", "<!-- end -->"];

/** Every file that is made of the records, by its path from the root. */
export async function referenceFiles(): Promise<Readonly<Record<string, string>>> {
  const models = await modelsPage();
  const rows = [["[models](docs/reference/models.md)", models.summary], ...summaryRows()];
  const before = await readFile(readme, "utf8");
  const made = `${start}\n\n${table(["", ""], rows)}\n\n${end}`;
  const [from, to] = [before.indexOf(start), before.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`README.md has no "${start}" with an "${end}" after it`);
  const pages = { "models.md": models.text, ...recordPages(), "options.md": await optionsPage() };
  return {
    "README.md": before.slice(0, from) + made + before.slice(to + end.length),
    ...Object.fromEntries(Object.entries(pages).map(([name, text]) => [`docs/reference/${name}`, text])),
  };
}

/** The commands, and every option of tuning as files of `--config` spell it. */
async function optionsPage(): Promise<string> {
  const command = new Command("tune");
  await define(command);
  const { properties } = configSchema(command) as {
    properties: Record<string, { description: string; default?: unknown; enum?: readonly string[] }>;
  }; // the schema that it makes
  return page(
    "Commands and options",
    "Every command has `--help`, with its own options and examples, and `--json`.",
    table(
      ["command", "what it is for"],
      Object.entries(commands).map(([name, { summary }]) => [code(`scion ${name}`), summary]),
    ),
    "## Options of tuning",
    "On the command line and in files of `--config`, where the names are as here. The options of methods, objectives and update rules are in [methods.md](methods.md) and [training.md](training.md) too, with their sources.",
    table(
      ["option", "what it is", "unless given"],
      Object.entries(properties).map(([name, { description, default: initial, enum: words }]) => [
        code(name),
        words && !description.includes(words.join(", ")) ? `${description}: ${words.join(", ")}` : description,
        initial === undefined ? "" : code(typeof initial === "string" ? initial : JSON.stringify(initial)),
      ]),
    ),
  );
}
