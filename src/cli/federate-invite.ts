import type { Command } from "commander";
import type { Output } from "./output.ts";
import { type OutputFlags, platformOf, withReplace } from "./outputs.ts";

interface InviteFlags extends OutputFlags {
  readonly federation: string;
  readonly client: string;
  readonly output: string;
}

const examples = `
Examples:
  $ scion federate invite --federation fed --client ana --output ana.json
  $ nats-server --signal reload=fed/nats.pid          let the server read who is invited

Hand the file to that client and nobody else: whoever uses it first is the client from then on.`;

/** `scion federate invite` */
export async function define(command: Command): Promise<void> {
  withReplace(command.description("Invite a client to a federation: the file that it joins with"))
    .requiredOption("--federation <folder>", "the federation's folder, as scion federate create made it")
    .requiredOption("--client <name>", "the client's name: letters, digits, _ and -")
    .requiredOption("-o, --output <file>", "where the invitation is written")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: InviteFlags, output: Output): Promise<number> {
  const { inviteToFederation, TuneError } = await import("../index.ts");
  const { nodePlatform } = await import("../runtime/node.ts");
  const { exitCodes } = await import("./failure.ts");
  const { storage } = platformOf(flags);
  const there = (await storage.sizeBytes(flags.output)) !== undefined;
  const isFolder = (await storage.list(flags.output)).length > 0;
  if (isFolder || (there && flags.replace !== true)) {
    throw new TuneError("output-exists", `${flags.output} is there already: it stays as it is.`, {
      at: flags.output,
      fix: isFolder ? "name a file" : "choose another name, or replace it (--replace)",
    });
  }
  // The federation's folder is read and written: it is no input that must stay as it is.
  const invitation = await inviteToFederation(nodePlatform.storage, flags.federation, flags.client);
  await storage.write(flags.output, `${JSON.stringify(invitation, null, 2)}\n`, { secret: true });
  output.record({ kind: "invited", client: flags.client, written: flags.output });
  output.say(
    `Invited ${flags.client}: ${flags.output}, for that client alone.`,
    `A server that runs must read its configuration again: nats-server --signal reload=${flags.federation}/nats.pid`,
    "The client joins with:",
    `  scion federate join --invite ${flags.output} --model … --data …`,
  );
  return exitCodes.done;
}
