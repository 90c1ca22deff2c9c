import type { Command, Option } from "commander";
import { TuneError } from "../errors.ts";
import { meant } from "../options.ts";
import { parseYaml } from "./yaml.ts";

/** Options that a file cannot set: they are about this one call. */
const notInFiles: ReadonlySet<string> = new Set(["config", "json", "resume", "replace"]);

/**
 * Take a command's options from a YAML or JSON file, by their names on the command line (`learning-rate`,
 * `learning_rate` or `learningRate`). What is given on the command line itself comes later and wins.
 * @throws {TuneError} `file-not-found`, `malformed-config`, and `bad-option` listing every entry that does not fit.
 */
export async function applyConfig(command: Command, path: string): Promise<void> {
  const { nodePlatform } = await import("../runtime/node.ts");
  const text = new TextDecoder().decode(await nodePlatform.storage.read(path));
  const entries = await parseEntries(text, path);
  const options = new Map(settable(command).map((option) => [option.attributeName(), option]));
  const problems: string[] = [];
  for (const [key, value] of Object.entries(entries)) {
    const name = key.replace(/[-_](\w)/g, (_, letter: string) => letter.toUpperCase());
    const option = options.get(name);
    if (option === undefined) {
      const near = meant(key, options.keys());
      problems.push(`there is no option "${key}"${near ? ` (nearest: ${near})` : ""}`);
      continue;
    }
    if (value === null) continue;
    try {
      command.setOptionValueWithSource(name, valueFor(option, value), "config");
    } catch (error) {
      problems.push(`${key}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  if (problems.length === 0) return;
  throw new TuneError("bad-option", problems, {
    at: path,
    fix: `options: ${[...options.keys()].join(", ")}`,
  });
}

/** A JSON schema of the files that {@link applyConfig} takes for a command. */
export function configSchema(command: Command): Readonly<Record<string, unknown>> {
  const properties = settable(command).map((option) => [
    option.attributeName(),
    {
      description: option.description,
      ...(option.argChoices ? { enum: option.argChoices } : { type: typeOf(option) }),
      ...(option.defaultValue === undefined ? {} : { default: option.defaultValue as unknown }),
    },
  ]);
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: `scion ${command.name()} --config`,
    type: "object",
    additionalProperties: false,
    properties: Object.fromEntries(properties),
  };
}

async function parseEntries(text: string, at: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    const parsed = (await parseYaml(text)) ?? {};
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed))
      return parsed as Record<string, unknown>;
    throw new Error("it is not a list of names and values");
  } catch (cause) {
    throw new TuneError(
      "malformed-config",
      `The file cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        at,
        fix: 'write a line for each option, such as "learning-rate: 2e-4"',
        cause,
      },
    );
  }
}

function settable(command: Command): readonly Option[] {
  return command.options.filter((option) => !notInFiles.has(option.attributeName()));
}

function takesValue(option: Option): boolean {
  return option.required || option.optional;
}

/** A value of a file as the command line would have read it. */
function valueFor(option: Option, value: unknown): unknown {
  if (!takesValue(option)) {
    if (typeof value !== "boolean") throw new Error(`${JSON.stringify(value)} is not true or false`);
    return value;
  }
  if (option.variadic) return Array.isArray(value) ? value.map(String) : [asText(value)];
  const text = asText(value);
  return option.parseArg ? option.parseArg(text, undefined as never) : text;
}

/** As it is written on a command line: lists with commas, pairs with equals signs. */
function asText(value: unknown): string {
  if (Array.isArray(value)) return value.map(String).join(",");
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value)
    .map(([name, part]) => `${name}=${String(part)}`)
    .join(",");
}

function typeOf(option: Option): string | readonly string[] {
  if (!takesValue(option)) return "boolean";
  if (option.variadic) return ["string", "array"];
  if (/<(names|numbers)>/.test(option.flags)) return ["string", "number", "array"];
  if (option.flags.includes("<list>")) return ["string", "object"]; // pairs by module
  return option.parseArg && typeof option.parseArg("1", undefined as never) === "number" ? "number" : "string";
}
