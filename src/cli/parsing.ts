import type { Command, CommanderError } from "commander";
import { TuneError } from "../errors.ts";
import { meant, standsFor } from "../options.ts";
import { print } from "./terminal.ts";

/** The options that were given, on the command line or in a file, by their names in code. */
export type Given = ReadonlySet<string>;

/** Which of a command's options were given. */
export function givenFlags(command: Command): Given {
  const names = command.options.map((option) => option.attributeName());
  return new Set(names.filter((name) => ["cli", "config"].includes(command.getOptionValueSource(name) ?? "")));
}

/**
 * Let a command throw what is wrong with its arguments as {@link TuneError}, all unknown flags at once, with what is meant
 * by them: the same name spelt otherwise, what other tools call it, or the nearest.
 */
export function refuseUnknown(
  command: Command,
  names: { readonly commands: readonly string[]; readonly habits: Readonly<Record<string, string>> } = {
    commands: [],
    habits: {},
  },
): void {
  const output = {
    writeOut: (text: string) => print("stdout", text),
    writeErr: (text: string) => print("stderr", text),
  };
  command.configureOutput({ ...output, outputError: () => undefined }).exitOverride((error) => {
    throw error.exitCode === 0 ? error : explained(error, command, names);
  });
  const parse = command.parseOptions.bind(command);
  command.parseOptions = (argv) => {
    const problems = askedForHelp(argv) ? [] : singleDashes(command, argv);
    const parsed = parse(argv);
    if (names.commands.length === 0 && !askedForHelp(argv)) {
      const unknown = parsed.unknown.filter(
        (arg) => /^-+[A-Za-z]/.test(arg) && !problems.some((known) => known.arg === arg),
      );
      problems.push(...unknown.map((arg) => ({ arg, meant: meantBy(command, arg) })));
    }
    if (problems.length > 0) throw unknownFlags(command, problems);
    return parsed;
  };
}

interface UnknownFlag {
  readonly arg: string;
  readonly meant: string | undefined;
}

function askedForHelp(argv: readonly string[]): boolean {
  return argv.includes("--help") || argv.includes("-h");
}

/** `-data` is `-d ata` to a parser of options. */
function singleDashes(command: Command, argv: readonly string[]): UnknownFlag[] {
  return argv.flatMap((arg, i) => {
    if (!/^-[A-Za-z][\w-]+(=|$)/.test(arg)) return [];
    const before = argv[i - 1];
    if (
      before !== undefined &&
      command.options.some((option) => option.required && [option.short, option.long].includes(before))
    )
      return [];
    const found = standsFor(nameOf(arg), longNames(command));
    return found === undefined ? [] : [{ arg, meant: flagOf(command, found) }];
  });
}

function unknownFlags(command: Command, problems: readonly UnknownFlag[]): TuneError {
  const lines = problems.map(({ arg, meant: target }) => {
    const [flag] = arg.split("=");
    return `There is no option ${flag}${target ? ` (did you mean ${target}?)` : ""}.`;
  });
  return new TuneError("bad-option", lines, {
    at: `scion ${command.name()}`,
    fix: `see scion ${command.name()} --help`,
  });
}

/** The flag that is meant by another, as it is written. */
export function meantBy(command: Command, arg: string): string | undefined {
  const found = meant(nameOf(arg), longNames(command));
  return found === undefined ? undefined : flagOf(command, found);
}

function nameOf(arg: string): string {
  return (arg.split("=")[0] ?? arg).replace(/^-+/, "");
}

function longNames(command: Command): readonly string[] {
  return command.options.map((option) => option.attributeName());
}

function flagOf(command: Command, name: string): string {
  return command.options.find((option) => option.attributeName() === name)?.long ?? name;
}

/** What commander found, in our words. */
function explained(
  error: CommanderError,
  command: Command,
  { commands, habits }: { readonly commands: readonly string[]; readonly habits: Readonly<Record<string, string>> },
): TuneError {
  const at = command.name() === "scion" ? "scion" : `scion ${command.name()}`;
  const fix = `see ${at} --help`;
  if (error.code === "commander.unknownCommand" || error.code === "commander.help") {
    const [given] = command.args;
    if (given === undefined) return new TuneError("unknown-command", "No command is named.", { at, fix });
    const near = habits[given.toLowerCase()] ?? meant(given, commands);
    return new TuneError(
      "unknown-command",
      `There is no command "${given}"${near ? ` (did you mean ${near}?)` : ""}.`,
      {
        at,
        fix: `commands: ${commands.join(", ")}`,
      },
    );
  }
  if (error.code === "commander.missingMandatoryOptionValue") {
    const missing = command.options.filter(
      (option) => option.mandatory && command.getOptionValue(option.attributeName()) === undefined,
    );
    const lines = missing.map((option) => `The option ${option.flags} is missing: ${option.description}.`);
    return new TuneError("bad-option", lines, { at, fix });
  }
  const message = error.message.replace(/^error: /, "");
  return new TuneError("bad-option", `${message[0]?.toUpperCase() ?? ""}${message.slice(1)}`, {
    at,
    fix,
    cause: error,
  });
}
