import type { Command } from "commander";
import type { Storage, Transport } from "../index.ts";

/** Add the choice of engine to a command. */
export function withEngine(command: Command): Command {
  return command.option(
    "--engine <servers>",
    "nats://host:port, several separated by commas; those of the credentials unless given",
  );
}

/** Who a party is, and where it connects; the files of `scion federate server-config` and `invite`. */
interface Credentials {
  readonly run: string;
  readonly party: string;
  readonly user: string;
  readonly password: string;
  readonly servers: readonly string[];
}

/**
 * Connect as the party whose credentials a file holds.
 * @throws {TuneError} `bad-credentials`, `engine-missing`, `transport-unreachable`, `not-permitted`.
 */
export async function connectTo(
  storage: Storage,
  path: string,
  engine: string | undefined,
): Promise<{ readonly transport: Transport; readonly run: string }> {
  const { openNats, TuneError } = await import("../index.ts");
  const credentials = parse(new TextDecoder().decode(await storage.read(path)));
  if (credentials === undefined) {
    throw new TuneError("bad-credentials", "This file holds no credentials of a federation.", {
      at: path,
      fix: "take the one that scion federate server-config or scion federate invite wrote",
    });
  }
  const servers = engine === undefined ? credentials.servers : engine.split(",").map((server) => server.trim());
  const wrong = servers.filter((server) => !/^(nats|tls):\/\/[^\s/]+$/.test(server));
  if (wrong.length > 0 || servers.length === 0) {
    throw new TuneError("bad-option", `${wrong.join(", ") || "Nothing"} is no address of a server.`, {
      at: engine === undefined ? path : "--engine",
      fix: "give it as nats://host:port, or tls://host:port",
    });
  }
  const { connect } = await import("@nats-io/transport-node").catch((cause: unknown) => {
    throw new TuneError("engine-missing", "The packages of NATS are not installed.", {
      at: "--engine",
      fix: "npm install @nats-io/transport-node @nats-io/jetstream",
      cause,
    });
  });
  const { run, party, user, password } = credentials;
  return { run, transport: await openNats({ connect: connect as never, servers, run, party, user, password }) };
}

function parse(text: string): Credentials | undefined {
  try {
    const found = JSON.parse(text) as Credentials;
    const words = [found.run, found.party, found.user, found.password];
    const fine = words.every((word) => typeof word === "string") && Array.isArray(found.servers);
    return fine && found.servers.every((server) => typeof server === "string") ? found : undefined;
  } catch {
    return undefined;
  }
}
