import type { Command } from "commander";
import { TuneError } from "../errors.ts";
import type { ServeEvent } from "../index.ts";
import { readingOf } from "./data.ts";
import { connectCoordinator, withEngine } from "./federate-engine.ts";
import { checkRounds, type RoundsFlags, roundsChoice, strategyOptions, withRounds } from "./federation.ts";
import { deviceOptions, loadFlags, memoryOptions, realNumber, wholeNumber, withIgnoreMemory } from "./model.ts";
import { type Output, strong } from "./output.ts";
import { platformOf, startsOver, withReplace } from "./outputs.ts";
import type { Given } from "./parsing.ts";
import { count, createProgress } from "./progress.ts";
import { dashed, headOf } from "./tuning.ts";

interface ServeFlags extends RoundsFlags {
  readonly engine?: string;
  readonly federation: string;
  readonly clients: number;
  readonly roundSeconds: number;
  readonly attempts: number;
  readonly output: string;
  readonly resume?: boolean;
  readonly tensorboard: boolean;
}

const examples = `
Examples:
  $ scion federate serve --federation fed -m ./model --clients 5 --rounds 20
  $ scion federate serve --federation fed -m ./model --clients 5 -d heldout.jsonl --dp-epsilon 3
  $ scion federate serve … --resume                 go on after an interruption

Clients join with scion federate join and the invitations of scion federate invite. What stands is kept by the server, so that a
coordinator that was stopped or killed goes on when it is started again with the same settings. The output folder gets
metrics.jsonl by round and client, events for TensorBoard, report.html, and adapter/ (PEFT).`;

/** `scion federate serve` */
export async function define(command: Command): Promise<void> {
  await withRounds(
    command.description("Coordinate a federation: many clients tune one adapter, each on its own data"),
    {
      without: ["validation"],
      data: "what each round's result is measured on; nothing is measured without it",
    },
  );
  withEngine(withIgnoreMemory(withReplace(command, startsOver)))
    .requiredOption("--federation <folder>", "the federation's folder, as scion federate create made it")
    .requiredOption("--clients <n>", "how many clients must be there before the first round", wholeNumber)
    .option("--round-seconds <n>", "time that clients have for a round; 0 waits for all that were asked", realNumber, 0)
    .option("--attempts <n>", "how often a round may be tried before the federation stops", wholeNumber, 3)
    .option("-o, --output <folder>", "where results go", "runs/federate")
    .option("--no-tensorboard", "write no events for TensorBoard (tensorboard --logdir runs)")
    .option("--resume", "go on with the federation that stands")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: ServeFlags, output: Output, _args: readonly string[], given: Given): Promise<number> {
  const { checkOutput, exportModel, federationPage, loadData, serveFederation } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { listenForInterrupt } = await import("./interrupt.ts");
  await checkRounds(flags, given, [flags.method]);
  refuseIdle(flags, given);
  const { storage } = platformOf(flags);
  await checkOutput(storage, flags.output, "federation");
  const { transport, run: name, withdrawn } = await connectCoordinator(storage, flags.federation, flags.engine);
  const stop = listenForInterrupt(output, "Stopping; clients wait for a coordinator that goes on (--resume)");
  try {
    const { model } = await loadFlags(flags, output, headOf(flags));
    const files = flags.data ?? [];
    const [first] = files;
    const data =
      first === undefined
        ? undefined
        : await loadData(model, files.length === 1 ? first : [...files], {
            validation: 0,
            ...readingOf(flags),
            ...(flags.maxLength === undefined ? {} : { maxLength: flags.maxLength }),
          });
    const result = await serveFederation(model, {
      ...(await roundsChoice(flags, given, data?.kind)),
      ...{ strategy: flags.method, ...(await strategyOptions(flags.method, flags, given)) },
      ...{
        transport,
        run: name,
        withdrawn,
        clients: flags.clients,
        roundSeconds: flags.roundSeconds,
        attempts: flags.attempts,
      },
      ...(data ? { data: { kind: data.kind, examples: data.train, files: data.files ?? [] } } : {}),
      output: flags.output,
      resume: flags.resume === true,
      ...(flags["replace"] === true ? { replace: true } : {}),
      ...memoryOptions(flags),
      tensorboard: flags.tensorboard,
      deviceOptions: deviceOptions(flags),
      signal: stop.signal,
      onEvent: watch(output, name),
    });
    const saved = `${flags.output}/adapter`;
    const members = Object.fromEntries(
      [...new Set(result.history.flatMap(({ clients }) => Object.keys(clients)))].map((client) => [client, 0]),
    );
    await storage.write(`${flags.output}/report.html`, federationPage(result, members));
    await exportModel(model, "peft", saved, { adapter: result.adapter, deviceOptions: deviceOptions(flags) });
    const told = result.ended === "interrupted" && !stop.signal.aborted; // by scion federate stop
    output.record({ kind: "saved", ended: told ? "stopped" : result.ended, rounds: result.rounds, saved });
    output.say(
      `${strong(result.ended === "finished" ? "Done" : result.ended === "too-few-clients" ? "Stopped for want of clients" : told ? "Stopped as it was told; --resume goes on from here" : "Interrupted; --resume goes on from here")} after round ${result.rounds} of ${result.plan.rounds}. Saved ${saved} and ${flags.output}/report.html.`,
      ...(result.why ? [result.why] : []),
    );
    return result.ended === "interrupted" && !told ? exitCodes.interrupted : exitCodes.done;
  } finally {
    stop.release();
    await transport.close();
  }
}

/** @throws {TuneError} `bad-option` for flags about data where there are none. */
function refuseIdle({ data }: ServeFlags, given: Given): void {
  if (data !== undefined) return;
  const idle = ["columns", "skipBadRows", "maxLength", "newHead"].filter((name) => given.has(name)).map(dashed);
  if (idle.length === 0) return;
  throw new TuneError("bad-option", `${idle.map((name) => `--${name}`).join(", ")} would do nothing without --data.`, {
    at: "scion federate serve",
    fix: "leave it out, or give --data",
  });
}

function watch(output: Output, name: string): (event: ServeEvent) => void {
  const progress = createProgress();
  return (event) => {
    if (event.kind === "open") {
      const { round, members, plan } = event.state;
      output.record({ kind: "open", run: name, round, members: Object.keys(members), plan });
      output.say(
        `${strong(name)}: ${plan.strategy}, ${count(plan.rounds)} rounds of ${count(plan.localSteps)} updates.${round > 0 ? ` Going on with round ${round + 1}.` : ""}`,
        `${count(Object.keys(members).length)} clients are there.`,
      );
      return;
    }
    output.record(event);
    if (event.kind === "asked") {
      progress.update(`round ${event.round + 1} of ${event.rounds}: ${event.participants.length} clients train`);
    } else if (event.kind === "turned-away") {
      progress.clear();
      output.say(`${event.client} was turned away: ${event.why}`);
    } else if (event.kind === "upload" && event.refused !== undefined) {
      progress.clear();
      output.say(`round ${event.round + 1}: what ${event.client} sent is refused: ${event.refused}`);
    } else if (event.kind === "round") {
      progress.clear();
      const { round, clients, measures, silent, refused, declined } = event.summary;
      const measured = Object.entries(measures).map(([measure, value]) => `, ${measure} ${value.toFixed(4)}`);
      const absent = [...silent, ...Object.keys({ ...refused, ...declined })];
      output.say(
        `round ${round + 1} of ${event.rounds}: ${count(Object.keys(clients).length)} clients${measured.join("")}${absent.length > 0 ? `; without ${absent.join(", ")}` : ""}`,
      );
    } else if (event.kind === "end") progress.clear();
  };
}
