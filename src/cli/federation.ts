import { type Command, Option } from "commander";
import type { FederationChoice } from "../index.ts";
import { realNumber, wholeNumber } from "./model.ts";
import type { Given } from "./parsing.ts";
import { fieldsGiven, refuseStrangers, type TuningFlags, tuningChoice, withFields, withTuning } from "./tuning.ts";

/** Options of commands that decide what a federation is like: its method and its rounds. */
export interface RoundsFlags extends TuningFlags {
  readonly method: string;
  readonly rounds: number;
  readonly localSteps: number;
  readonly clientsPerRound: number;
  readonly minClients: number;
  readonly aggregation: string;
  readonly weighting: string;
  readonly maxWeight: number;
  readonly trim: number;
}

const without = ["method", "epochs", "maxSteps", "accumulationSteps", "warmup", "evaluateEvery", "patience"];

/** Add them to a command, with those of what is tuned. */
export async function withRounds(
  command: Command,
  { without: besides = [], data }: { readonly without?: readonly string[]; readonly data?: string } = {},
): Promise<Command> {
  const { aggregationDefaults, aggregationRules, federationDefaults, strategies } = await import("../index.ts");
  const { rounds, localSteps, clientsPerRound, minClients, batchSize, maxGradNorm, seed, strategy } =
    federationDefaults;
  await withTuning(command, {
    without: [...without, "checkpointEvery", "schedule", "stream", ...besides],
    records: ["lora"],
    defaults: { optimizer: federationDefaults.optimizer, batchSize, maxGradNorm, seed },
    ...(data === undefined ? {} : { data }),
  });
  command
    .addOption(new Option("--method <name>", "the federated method").choices([...strategies.keys()]).default(strategy))
    .option("--rounds <n>", "rounds of training and aggregation", wholeNumber, rounds)
    .option("--local-steps <n>", "updates that a client makes in a round", wholeNumber, localSteps)
    .option("--clients-per-round <n>", "clients that are asked in a round; 0 asks all", wholeNumber, clientsPerRound)
    .option("--min-clients <n>", "with fewer uploads a round is tried again", wholeNumber, minClients)
    .addOption(
      new Option("--aggregation <rule>", "how uploads become one")
        .choices(aggregationRules)
        .default(aggregationDefaults.rule),
    )
    .addOption(
      new Option("--weighting <what>", "what a client counts in a mean: its examples, or the same as any other")
        .choices(["examples", "equal"])
        .default(aggregationDefaults.weighting),
    )
    .option(
      "--max-weight <share>",
      "the largest share of a mean that a client may have",
      realNumber,
      aggregationDefaults.maxWeight,
    )
    .option("--trim <share>", "share that a trimmed mean leaves out on each side", realNumber, aggregationDefaults.trim)
    .option("--dp-rounds <n>", "rounds that a client's noise is made for; all unless given", wholeNumber);
  withFields(command, [...strategies.values()]);
  return command;
}

/**
 * Look at the flags before anything is read.
 * @throws {TuneError} `bad-option` for options that none of the methods named takes, and as `tuningChoice`.
 */
export async function checkRounds(flags: RoundsFlags, given: Given, names: readonly string[]): Promise<void> {
  const { strategies } = await import("../index.ts");
  refuseStrangers(given, [
    {
      by: `--method ${names.join(",")}`,
      chosen: [...strategies.values()].filter(({ name }) => names.includes(name)),
      all: [...strategies.values()],
    },
  ]);
  await tuningChoice({ ...flags, method: "lora" }, notStrategy(given));
}

function notStrategy(given: Given): Given {
  return new Set([...given].filter((name) => name !== "method"));
}

/** What the flags say of a federation, but for its strategy. */
export async function roundsChoice(
  flags: RoundsFlags,
  given: Given,
  kind?: Parameters<typeof tuningChoice>[2],
): Promise<Omit<FederationChoice, "strategy" | "strategyOptions">> {
  const { method: _lora, ...tuning } = await tuningChoice({ ...flags, method: "lora" }, notStrategy(given), kind);
  return {
    ...tuning,
    ...{ rounds: flags.rounds, localSteps: flags.localSteps, clientsPerRound: flags.clientsPerRound },
    minClients: flags.minClients,
    ...privacyGiven(flags, given),
    aggregation: {
      rule: flags.aggregation as "mean", // one of the choices
      weighting: flags.weighting as "examples", // likewise
      ...{ maxWeight: flags.maxWeight, trim: flags.trim },
    },
  };
}

/** The options of a strategy that were given. */
export async function strategyOptions(
  name: string,
  flags: RoundsFlags,
  given: Given,
): Promise<Pick<FederationChoice, "strategyOptions">> {
  const { strategies } = await import("../index.ts");
  const own = fieldsGiven(flags, given, strategies.get(name)?.fields);
  return Object.keys(own).length === 0 ? {} : { strategyOptions: own };
}

/** The options of privacy that were given. */
function privacyGiven(flags: RoundsFlags, given: Given): Readonly<Record<string, never>> {
  const names = ["dpEpsilon", "dpDelta", "dpClip", "dpNoise", "dpAccountant", "dpRounds"].filter((name) =>
    given.has(name),
  );
  return Object.fromEntries(names.map((name) => [name, flags[name] as never])); // each parsed as its option is
}
