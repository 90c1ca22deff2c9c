import { TuneError } from "../errors.ts";

/** How parties in Node reach a NATS server: the official client, over TCP. @throws {TuneError} `engine-missing`, `bad-option`. */
export async function natsConnect(options: object): Promise<unknown> {
  const { connect } = await import("@nats-io/transport-node").catch((cause: unknown) => {
    throw new TuneError("engine-missing", "The engine nats needs packages that are not installed.", {
      fix: "npm install @nats-io/transport-node @nats-io/jetstream @nats-io/nats-core",
      cause,
    });
  });
  const { servers } = options as { readonly servers: readonly string[] }; // as `openNats` gives them
  const tcp = servers.filter((at) => !/^wss?:/.test(at)); // Node 20 has no WebSocket
  if (tcp.length > 0) return connect({ ...options, servers: tcp });
  throw new TuneError("bad-option", `${servers.join(", ")}: these addresses are for pages.`, {
    fix: "name an address such as nats://host:4222 when the federation is set up",
  });
}
