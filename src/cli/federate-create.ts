import type { Command } from "commander";
import { wholeNumber } from "./model.ts";
import type { Output } from "./output.ts";
import { type OutputFlags, platformOf, withReplace } from "./outputs.ts";

interface CreateFlags extends OutputFlags {
  readonly output: string;
  readonly run: string;
  readonly address: readonly string[];
  readonly listen: string;
  readonly store?: string;
  readonly maxFile: string;
  readonly websocket?: string;
  readonly origin?: readonly string[];
  readonly certificate?: string;
  readonly key?: string;
  readonly servers: number;
}

const examples = `
Examples:
  $ scion federate create --run shoot --address nats://myhost:4222 --output fed
  $ nats-server -c fed/nats.conf
  $ scion federate invite --federation fed --client ana --output ana.json
  $ scion federate create --run shoot --servers 3 --address nats://a:4222 nats://b:4222 nats://c:4222 --output fed
  $ nats-server -c fed/nats-1.conf                     on a, with its file alone; on b and c likewise

The folder holds the coordinator's secrets and nats.conf, for its owner alone. Secrets that are there are never replaced.`;

/** `scion federate create` */
export async function define(command: Command): Promise<void> {
  withReplace(command.description("Set up a federation over NATS: its secrets and the server's configuration"))
    .requiredOption("--run <name>", "the federation's name: letters, digits, _ and -")
    .requiredOption(
      "--address <addresses...>",
      "where clients reach the server: nats://host:4222, wss://host for pages",
    )
    .option("--listen <host:port>", "where the server listens", "0.0.0.0:4222")
    .option(
      "--servers <n>",
      "a cluster of 3 or 5 servers that keep the same, one at each address (of --listen they take the host)",
      wholeNumber,
      1,
    )
    .option("--store <path>", "where the server keeps what it keeps; jetstream in the output folder unless given")
    .option("--max-file <size>", "the most that it keeps", "20GB")
    .option("--websocket <host:port>", "where it listens for pages")
    .option("--origin <origins...>", "with --websocket: where pages may come from, such as https://example.org")
    .option("--certificate <file>", "a certificate for TLS, with --key")
    .option("--key <file>", "the certificate's key")
    .requiredOption("-o, --output <folder>", "where the federation is set up")
    .addHelpText("after", examples);
}

/** Run it. */
export async function run(flags: CreateFlags, output: Output): Promise<number> {
  const { createFederation, TuneError } = await import("../index.ts");
  const { exitCodes } = await import("./failure.ts");
  const { storage } = platformOf(flags);
  const { run: name, address, listen, store, maxFile, websocket, origin, certificate, key, servers } = flags;
  const problems = [
    ...((websocket === undefined) === (origin === undefined) ? [] : ["--websocket and --origin go together."]),
    ...((certificate === undefined) === (key === undefined) ? [] : ["--certificate and --key go together."]),
  ];
  if (problems.length > 0) {
    throw new TuneError("bad-option", problems, { at: "scion federate create", fix: "give both, or neither" });
  }
  await createFederation(storage, flags.output, {
    ...{ run: name, addresses: address, listen, maxFile, servers },
    ...(store === undefined ? {} : { store }),
    ...(websocket === undefined || origin === undefined ? {} : { websocket: { listen: websocket, origins: origin } }),
    ...(certificate === undefined || key === undefined ? {} : { tls: { certificate, key } }),
  });
  output.record({ kind: "created", run: name, folder: flags.output });
  output.say(
    `Set up ${name} in ${flags.output}. Next:`,
    ...(servers === 1
      ? [`  nats-server -c ${flags.output}/nats.conf`]
      : Array.from({ length: servers }, (_, i) => `  nats-server -c ${flags.output}/nats-${i + 1}.conf`)),
    `  scion federate invite --federation ${flags.output} --client ana --output ana.json`,
    `  scion federate serve --federation ${flags.output} --model … --clients 1`,
  );
  return exitCodes.done;
}
