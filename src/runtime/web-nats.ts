import { TuneError } from "../errors.ts";
import { namesOf } from "../io/module-names.ts";

/** How parties in a page reach a NATS server: the official client, over WebSocket. @throws {TuneError} `engine-missing`, `bad-option`. */
export async function natsConnect(options: object): Promise<unknown> {
  const { wsconnect } = await import("@nats-io/nats-core").then(namesOf, (cause: unknown) => {
    throw new TuneError("engine-missing", "The engine nats needs packages that are not installed.", {
      fix: "npm install @nats-io/jetstream @nats-io/nats-core",
      cause,
    });
  });
  const { servers } = options as { readonly servers: readonly string[] }; // as `openNats` gives them
  const sockets = servers.filter((at) => /^wss?:/.test(at));
  if (sockets.length > 0) return wsconnect({ ...options, servers: sockets });
  throw new TuneError("bad-option", `${servers.join(", ")}: a page needs an address such as wss://host.`, {
    fix: "name one when the federation is set up, and give its server a websocket",
  });
}
