import type { Command } from "commander";
import { connectCoordinator, withEngine } from "./federate-engine.ts";
import type { Output } from "./output.ts";
import { platformOf } from "./outputs.ts";
import { count } from "./progress.ts";

interface StopFlags {
  readonly federation: string;
  readonly engine?: string;
}

const examples = `
Examples:
  $ scion federate stop --federation fed
  $ scion federate serve … --resume                 go on later

The coordinator ends once the round under way is closed, and all that stands is kept. Clients wait for a coordinator that goes on.`;

/** `scion federate stop` */
export async function define(command: Command): Promise<void> {
  withEngine(command.description("Tell a federation's coordinator to end after the round under way"))
    .requiredOption("--federation <folder>", "the federation's folder, as scion federate create made it")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: StopFlags, output: Output): Promise<number> {
  const { stopFederation } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { storage } = platformOf(flags);
  const { transport, run: name } = await connectCoordinator(storage, flags.federation, flags.engine, {
    observes: true,
  });
  try {
    const rounds = await stopFederation(transport);
    output.record({ kind: "stopping", run: name, rounds: rounds ?? null });
    output.say(
      rounds === undefined
        ? `${name} has ended already.`
        : `${name} ends after round ${count(rounds)}; scion federate serve --resume goes on from there.`,
    );
    return exitCodes.done;
  } finally {
    await transport.close();
  }
}
