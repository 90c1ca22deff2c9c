import type { Command } from "commander";
import type { JoinEvent } from "../index.ts";
import { type DataFlags, readingOf, withData } from "./data.ts";
import { connectClient, withEngine } from "./federate-engine.ts";
import {
  deviceOptions,
  loadFlags,
  type ModelFlags,
  memoryOptions,
  wholeNumber,
  withIgnoreMemory,
  withModel,
} from "./model.ts";
import { type Output, strong } from "./output.ts";
import { type OutputFlags, platformOf, withReplace } from "./outputs.ts";
import { count, createProgress } from "./progress.ts";

interface JoinFlags extends ModelFlags, OutputFlags, DataFlags {
  readonly engine?: string;
  readonly invite: string;
  readonly data: string;
  readonly maxLength?: number;
  readonly output: string;
}

const examples = `
Examples:
  $ scion federate join --invite ana.json -m ./model -d mine.jsonl
  $ scion federate join --invite ana.json -m ./model -d mine.jsonl --output runs/mine

The data stay on this machine: what is sent is what training changed. Of a private federation the output folder keeps what the
data have spent (clients/<name>.ledger): keep it, it is checked before every round. Ctrl-C leaves; the same command comes back.
When the federation is done, adapter/ (PEFT) is written too.`;

/** `scion federate join` */
export async function define(command: Command): Promise<void> {
  withData(withModel(command.description("Take part in a federation with data that stay here"), { adapter: false }))
    .requiredOption("-d, --data <file>", "training data; they stay here")
    .option("--max-length <tokens>", "longest sequence; the model's context unless given", wholeNumber);
  withEngine(withIgnoreMemory(withReplace(command)))
    .requiredOption("--invite <file>", "who this client is: the file of scion federate invite")
    .option("-o, --output <folder>", "this client's own folder: its ledger, and the adapter in the end", "runs/client")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: JoinFlags, output: Output): Promise<number> {
  const { claimOutput, exportModel, joinFederation, loadData } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  const { storage } = platformOf(flags);
  await claimOutput(storage, flags.output, "federation-client"); // this client's key is written there when it connects
  const transport = await connectClient(storage, flags.output, flags.invite, flags.engine);
  const stop = listenForInterrupt(output, "Leaving after this update");
  try {
    const { model } = await loadFlags(flags, output, { labelsFrom: [flags.data] });
    const data = await loadData(model, flags.data, {
      validation: 0,
      ...readingOf(flags),
      ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
    });
    output.say(`${flags.data}: ${count(data.train.length)} examples.`);
    const result = await joinFederation(model, data, {
      transport,
      output: flags.output,
      ...memoryOptions(flags),
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watch(output, transport.party),
    });
    const saved = `${flags.output}/adapter`;
    if (result.adapter) {
      await exportModel(model, "peft", saved, { adapter: result.adapter, deviceOptions: deviceOptions(flags) });
    }
    const { ended, rounds, spent, why } = result;
    output.record({ kind: "end", ended, rounds, ...(spent ? { spent } : {}), ...(why ? { why: why.code } : {}) });
    const ends = {
      finished: `Done. Saved ${saved}.`,
      stopped: "The coordinator has stopped the federation.",
      left: `Takes part no more: ${why?.what ?? ""}`,
      interrupted: "Left; the same command comes back.",
    };
    output.say(
      `${strong(ends[ended])} Trained in ${count(rounds)} rounds.`,
      ...(spent
        ? [
            `The data have spent epsilon ${spent.epsilon.toFixed(3)} at delta ${spent.delta} (${count(spent.steps)} updates).`,
          ]
        : []),
    );
    return ended === "interrupted" ? exitCodes.interrupted : exitCodes.done;
  } finally {
    stop.release();
    await transport.close();
  }
}

function watch(output: Output, name: string): (event: JoinEvent) => void {
  const progress = createProgress();
  return (event) => {
    output.record(event.kind === "joined" ? { ...event, plan: { ...event.plan, base: undefined } } : event);
    if (event.kind === "waiting") output.say("Waiting for the coordinator.");
    else if (event.kind === "joined") {
      const { plan, run, trainedParameters } = event;
      output.say(
        `${strong(name)} takes part in ${run}: ${plan.strategy}, ${count(plan.rounds)} rounds of ${count(plan.localSteps)} updates; ${count(trainedParameters)} values are trained.`,
        ...(plan.privacy
          ? [
              `Private: epsilon ${plan.privacy.epsilon || "by its noise"} at delta ${plan.privacy.delta}, clip ${plan.privacy.clip}.`,
            ]
          : []),
      );
    } else if (event.kind === "training") progress.update(`round ${event.round + 1}: training`);
    else if (event.kind === "uploaded") progress.update(`round ${event.round + 1}: sent`);
    else if (event.kind === "declined") {
      progress.clear();
      output.say(`round ${event.round + 1}: does not take part (${event.reason})`);
    } else if (event.kind === "round") progress.update(`round ${event.round + 1} of ${event.rounds}`);
  };
}
