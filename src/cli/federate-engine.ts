import type { Command } from "commander";
import type { Storage, Transport } from "../index.ts";

/** Add what every party that connects may say. */
export function withEngine(command: Command): Command {
  return command.option(
    "--engine <servers>",
    "nats://host:port, several separated by commas; those that the federation was set up with unless given",
  );
}

/** How parties in Node reach the servers that a flag names, if it names some. @throws {TuneError} `bad-option`. */
async function reachOf(engine: string | undefined): Promise<{
  readonly connect: (options: object) => Promise<unknown>;
  readonly servers?: readonly string[];
}> {
  const { natsConnect } = await import("../runtime/node.ts");
  if (engine === undefined) return { connect: natsConnect };
  const { TuneError } = await import("../index.ts");
  const servers = engine.split(",").map((server) => server.trim());
  const wrong = servers.filter((server) => !/^(nats|tls):\/\/[^\s/]+$/.test(server));
  if (wrong.length > 0) {
    throw new TuneError("bad-option", `${wrong.join(", ")} is no address of a server.`, {
      at: "--engine",
      fix: "give it as nats://host:port, or tls://host:port",
    });
  }
  return { connect: natsConnect, servers };
}

/**
 * Connect as the coordinator of a federation that was set up in a folder; clients that are invited or withdrawn later are known soon
 * after. Who only looks `observes`.
 * @throws {TuneError} `bad-invitation`, `engine-missing`, `transport-unreachable`, `not-permitted`, `no-jetstream`.
 */
export async function connectCoordinator(
  storage: Storage,
  folder: string,
  engine: string | undefined,
  { observes = false }: { readonly observes?: boolean } = {},
): Promise<{ readonly transport: Transport; readonly run: string; readonly withdrawn: () => readonly string[] }> {
  const { openCoordinatorTransport } = await import("../index.ts");
  const opened = await openCoordinatorTransport(storage, folder, { ...(await reachOf(engine)), observes });
  // What cannot be read just now is read the next time.
  const timer = setInterval(() => void opened.refresh().catch(() => undefined), 5000);
  const close = async (): Promise<void> => {
    clearInterval(timer);
    await opened.close();
  };
  return { run: opened.run, withdrawn: opened.withdrawn, transport: { ...opened, close } };
}

/**
 * Connect as the client that an invitation names; its own key lies in its folder from then on.
 * @throws {TuneError} `bad-invitation`, `invitation-used`, and as {@link connectCoordinator}.
 */
export async function connectClient(
  storage: Storage,
  folder: string,
  invite: string,
  engine: string | undefined,
): Promise<Transport> {
  const { openClientTransport } = await import("../index.ts");
  return openClientTransport(storage, folder, { file: invite }, await reachOf(engine));
}
