import type { Command } from "commander";
import type { Output } from "./output.ts";
import { type OutputFlags, platformOf, refuseIdleReplace, withReplace } from "./outputs.ts";

interface InviteFlags extends OutputFlags {
  readonly federation: string;
  readonly client?: string;
  readonly withdraw?: string;
  readonly output?: string;
}

const examples = `
Examples:
  $ scion federate invite --federation fed --client ana --output ana.json
  $ nats-server --signal reload=fed/nats.pid          let the server read who is invited
  $ scion federate invite --federation fed --withdraw ana   take it back

Hand the file to that client and nobody else: whoever uses it first is the client from then on. A coordinator that runs asks a
client that was withdrawn for nothing more within seconds; the server closes its connection once it has read its configuration.`;

/** `scion federate invite` */
export async function define(command: Command): Promise<void> {
  withReplace(command.description("Invite a client to a federation: the file that it joins with"))
    .requiredOption("--federation <folder>", "the federation's folder, as scion federate create made it")
    .option("--client <name>", "the client's name: letters, digits, _ and -")
    .option("-o, --output <file>", "where the invitation is written")
    .option("--withdraw <name>", "take a client's invitation back, for good")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: InviteFlags, output: Output): Promise<number> {
  const { inviteToFederation, TuneError, withdrawFromFederation } = await import("../index.ts");
  const { nodePlatform } = await import("../runtime/node.ts");
  const { exitCodes } = await import("./failure.ts");
  const { client, withdraw, output: file } = flags;
  const reload = `A server that runs must read its configuration again: nats-server --signal reload=${flags.federation}/nats.pid`;
  refuseIdleReplace(flags, file, "--output");
  if (withdraw !== undefined && client === undefined && file === undefined) {
    await withdrawFromFederation(nodePlatform.storage, flags.federation, withdraw);
    output.record({ kind: "withdrawn", client: withdraw });
    output.say(`Withdrew ${withdraw}: it takes part no more.`, reload);
    return exitCodes.done;
  }
  if (withdraw !== undefined || client === undefined || file === undefined) {
    throw new TuneError("bad-option", "What is to be done is not clear.", {
      at: "scion federate invite",
      fix: "give --client and --output to invite one, or --withdraw and nothing else to take an invitation back",
    });
  }
  const { storage } = platformOf(flags);
  const there = (await storage.sizeBytes(file)) !== undefined;
  const isFolder = (await storage.list(file)).length > 0;
  if (isFolder || (there && flags.replace !== true)) {
    throw new TuneError("output-exists", `${file} is there already: it stays as it is.`, {
      at: file,
      fix: isFolder ? "name a file" : "choose another name, or replace it (--replace)",
    });
  }
  // The federation's folder is read and written: it is no input that must stay as it is.
  const invitation = await inviteToFederation(nodePlatform.storage, flags.federation, client);
  await storage.write(file, `${JSON.stringify(invitation, null, 2)}\n`, { secret: true });
  output.record({ kind: "invited", client, written: file });
  output.say(
    `Invited ${client}: ${file}, for that client alone.`,
    reload,
    "The client joins with:",
    `  scion federate join --invite ${file} --model … --data …`,
  );
  return exitCodes.done;
}
