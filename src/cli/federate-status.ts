import type { Command } from "commander";
import type { ClientStatus } from "../index.ts";
import { connectCoordinator, withEngine } from "./federate-engine.ts";
import { type Output, strong } from "./output.ts";
import { platformOf } from "./outputs.ts";
import { count } from "./progress.ts";
import { sayTable } from "./table.ts";

interface StatusFlags {
  readonly federation: string;
  readonly engine?: string;
}

const examples = `
Examples:
  $ scion federate status --federation fed
  $ scion federate status --federation fed --json

A client is late where it was asked and has not answered, though half of those that were asked have, or the round's time is over.
What is said of privacy is what a client's data have spent at most; its own ledger says what is so.`;

/** `scion federate status` */
export async function define(command: Command): Promise<void> {
  withEngine(
    command.description("Say how a federation stands: its rounds, its clients, who is late, what each has spent"),
  )
    .requiredOption("--federation <folder>", "the federation's folder, as scion federate create made it")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: StatusFlags, output: Output): Promise<number> {
  const { federationStatus } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { storage } = platformOf(flags);
  const { transport } = await connectCoordinator(storage, flags.federation, flags.engine, { observes: true });
  try {
    const status = await federationStatus(transport);
    output.record({ kind: "status", ...status });
    const { run: name, phase, stopping, round, rounds, attempt, seconds, clients, last } = status;
    const phases = { done: "done", stopped: "stopped for want of clients", training: `round ${round + 1} under way` };
    const measured = Object.entries(last?.measures ?? {}).map(([measure, value]) => `, ${measure} ${value.toFixed(4)}`);
    output.say(
      `${strong(name)} (${status.strategy}): ${count(round)} of ${count(rounds)} rounds closed${measured.join("")}; ${phases[phase]}${seconds > 0 ? ` for ${count(seconds)} s` : ""}${attempt > 1 ? `, attempt ${attempt}` : ""}${stopping ? "; it was told to stop" : ""}.`,
    );
    sayTable(output, [["client", "examples", "now", "rounds", "missed", "spent"], ...clients.map(cells)]);
    return exitCodes.done;
  } finally {
    await transport.close();
  }
}

function cells({ client, examples: own, now, why, rounds, missed, spent }: ClientStatus): readonly string[] {
  return [
    client,
    count(own),
    why === undefined ? now : `${now}: ${why.slice(0, 60)}`,
    count(rounds),
    count(missed),
    spent ? `epsilon ${spent.epsilon.toFixed(3)} at ${spent.delta}` : "",
  ];
}
