import type { Command } from "commander";
import { type Output, strong } from "./output.ts";

const examples = `
Examples:
  $ scion federate report runs/federate

Writes report.html into the folder, also while the federation goes on: curves by round and client, who took part, who missed
rounds and why, what travelled.`;

/** `scion federate report` */
export async function define(command: Command): Promise<void> {
  command
    .description("Draw a federation as a page: of a coordinator's or a simulation's folder")
    .argument("<folder>", "the folder that scion federate serve or simulate wrote to")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(_flags: object, output: Output, [folder = ""]: readonly string[]): Promise<number> {
  const { claimOutput, federationReport } = await import("../index.ts");
  const { nodePlatform } = await import("../runtime/node.ts");
  const { exitCodes } = await import("./failure.ts");
  const { storage } = nodePlatform;
  const { page, round, rounds } = await federationReport(storage, folder);
  await claimOutput(storage, folder, "federation"); // its page is one of the files there
  const written = `${folder}/report.html`;
  await storage.write(written, page);
  output.record({ kind: "report", round, rounds, written });
  output.say(`${strong(written)}: ${round} of ${rounds} rounds.`);
  return exitCodes.done;
}
