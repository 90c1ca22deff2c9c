import { readFile } from "node:fs/promises";
import { isAbsolute } from "node:path";
import { Command, type Option } from "commander";
import { configSchema } from "../../src/cli/config.ts";
import { commands } from "../../src/cli/index.ts";
import { inWords } from "./checked.ts";
import { checkOfOption } from "./checked-options.ts";
import { configPage } from "./config.ts";
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
  const pages = {
    "models.md": models.text,
    ...recordPages(),
    "options.md": await optionsPage(),
    "config.md": await configPage(),
  };
  return {
    "README.md": before.slice(0, from) + made + before.slice(to + end.length),
    ...Object.fromEntries(Object.entries(pages).map(([name, text]) => [`docs/reference/${name}`, text])),
  };
}

/** The commands, every option of tuning as files of `--config` spell it, and those of the others. */
async function optionsPage(): Promise<string> {
  const all = await definedCommands();
  const [tune, ...others] = all as [Command, ...Command[]]; // the first of them
  const inFiles = Object.keys((configSchema(tune) as { properties: object }).properties); // the schema that it makes
  const spelled = (which: (option: Option) => boolean): readonly (readonly string[])[] =>
    tune.options.filter(which).map((option) => optionRow("tune", option, option.attributeName()));
  return page(
    "Commands and options",
    "Every command has `--help`, with its own options and examples, and `--json`.",
    table(
      ["command", "what it is for"],
      Object.entries(commands).map(([name, { summary }]) => [code(`scion ${name}`), summary]),
    ),
    "## Options of tuning",
    "On the command line and in files of `--config`, where the names are as here. The options of methods, objectives and update rules are in [methods.md](methods.md) and [training.md](training.md) too, with their sources. Each is checked against what the last column says, in the tests that it names; that every flag reaches its setting, in `tests/options.test.ts`.",
    table(
      head,
      spelled((option) => inFiles.includes(option.attributeName())),
    ),
    "On the command line alone:",
    table(
      head,
      spelled((option) => !inFiles.includes(option.attributeName())),
    ),
    ...others.map((command) => commandSection(command, tune)),
  );
}

const head = ["option", "what it is", "unless given", "checked"];

/** Every command with its options. */
export async function definedCommands(): Promise<readonly Command[]> {
  return Promise.all(
    Object.entries(commands).map(async ([name, { load }]) => {
      const command = new Command(name);
      await (await load()).define(command);
      return command;
    }),
  );
}

/** The options of a command, but for those of tuning that it takes as they are. */
function commandSection(command: Command, tune: Command): string {
  const name = command.name();
  const asTune = ({ flags, description }: Option): boolean =>
    tune.options.some((option) => option.flags === flags && option.description === description);
  const [taken, own] = [command.options.filter(asTune), command.options.filter((option) => !asTune(option))];
  const left = swept.filter((flag) => !command.options.some(({ long }) => long === flag));
  const tunes = taken.some(({ long }) => long === "--config");
  const takes = tunes
    ? `Takes the options of tuning${left.length > 0 ? ` but ${left.map(code).join(", ")}` : ""}, and these.`
    : `Takes ${taken.map(({ long }) => code(long ?? "")).join(", ")} as tuning does, and these.`;
  const rows = [
    ...command.registeredArguments.map((argument) => [
      code(argument.required ? `<${argument.name()}>` : `[${argument.name()}]`),
      argument.description,
      shown(argument.defaultValue),
      inWords(checkOfOption(name, argument.name())),
    ]),
    ...own.map((option) => optionRow(name, option, option.flags)),
  ];
  return [`## scion ${name}`, ...(taken.length > 0 ? [takes] : []), table(head, rows)].join("\n\n");
}

/** What a sweep goes through itself. */
const swept = ["--method", "--learning-rate", "--seed"];

function optionRow(command: string, option: Option, name: string): readonly string[] {
  const { description, argChoices: words, defaultValue } = option;
  return [
    code(name),
    words && !description.includes(words.join(", ")) ? `${description}: ${words.join(", ")}` : description,
    option.negate ? "" : shown(defaultValue),
    inWords(checkOfOption(command, option.attributeName())),
  ];
}

/** A default as people read it: where it is a path of this machine, not which. */
function shown(value: unknown): string {
  if (value === undefined) return "";
  if (typeof value === "string" && isAbsolute(value)) return "a folder of the user's cache";
  return code(typeof value === "string" ? value : JSON.stringify(value));
}
