import { TuneError } from "../../errors.ts";

/** What became of a request to the server. */
export type NatsFault = "permission" | "authorization" | "closed" | "again" | "unknown";

/** What an error of the client library means; its names are those of `@nats-io/nats-core`. */
export function faultOf(error: unknown): NatsFault {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (cause.name === "PermissionViolationError" || /permissions violation/i.test(cause.message)) return "permission";
    if (/^(AuthorizationError|UserAuthenticationExpiredError)$/.test(cause.name)) return "authorization";
    if (/^(ClosedConnectionError|DrainingConnectionError)$/.test(cause.name)) return "closed";
    if (/^(TimeoutError|NoRespondersError|ConnectionError|RequestError)$/.test(cause.name)) return "again";
    if ("code" in cause && /^(ECONN|ENOTFOUND|EAI_|ETIMEDOUT|EPIPE|EHOST)/.test(String(cause.code))) return "again";
  }
  return "unknown";
}

/** The error for a connection that was closed here. */
export function closedError(party: string): TuneError {
  return new TuneError("transport-closed", "The connection has been closed.", { at: party, fix: "connect again" });
}

/** The error for what a party may not do. */
export function notPermitted(party: string, what: string, cause?: unknown): TuneError {
  return new TuneError("not-permitted", `The server does not let ${party} do that: ${what}.`, {
    at: party,
    fix: "use the party's own invitation, and one that has not been withdrawn",
    cause,
  });
}

/** The error for a server that gives no answer. */
export function unreachable(party: string, what: string, cause?: unknown): TuneError {
  return new TuneError("transport-unreachable", `The server gives no answer: ${what}.`, {
    at: party,
    fix: "see whether nats-server runs at that address and the coordinator has been started, and try again",
    cause,
  });
}

/** The error for a server that has no room. */
export function full(party: string, what: string): TuneError {
  return new TuneError("transport-full", `The server has no room for more: ${what}.`, {
    at: party,
    fix: "give JetStream more room (max_file in the server's configuration, or the disk), and go on",
  });
}

/** The error for packages that are not there. */
export function engineMissing(cause: unknown): TuneError {
  return new TuneError("engine-missing", "The engine nats needs packages that are not installed.", {
    fix: "npm install @nats-io/transport-node @nats-io/jetstream @nats-io/nats-core",
    cause,
  });
}
