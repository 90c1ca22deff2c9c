import { listing, TuneError } from "../errors.ts";
import { isJsonObject } from "../io/json.ts";
import { type NatsOptions, type NatsTransport, openNats } from "./engines/nats.ts";
import { type NatsServer, natsConfig } from "./engines/nats-config.ts";
import { coordinatorName, natsToken } from "./engines/nats-names.ts";
import { newSigningKey, type SigningKey } from "./keys.ts";
import { type SignedCoordinator, signed } from "./signed.ts";
import type { Transport } from "./transport.ts";

/** All that the coordinator of a federation over NATS keeps: where the server is, secrets, and who was invited. */
export interface NatsFederation {
  readonly kind: "scion-federation";
  readonly version: 1;
  /** What the server's configuration depends on, but for passwords. */
  readonly server: Omit<NatsServer, "coordinatorPassword" | "clients">;
  /** Addresses at which parties reach the server: `nats://host:port`, `tls://…`, or `ws://…` and `wss://…` for pages. */
  readonly addresses: readonly string[];
  /** Servers of a cluster, which keep the same: the password that they let each other in with. One server unless given. */
  readonly cluster?: { readonly servers: number; readonly password: string };
  readonly password: string;
  readonly key: SigningKey;
  readonly clients: Readonly<Record<string, { readonly password: string; readonly invitation: string }>>;
  /** Those whose invitations were withdrawn. Their names are not given to others, whose keys would be taken for theirs. */
  readonly withdrawn?: readonly string[];
}

/** What a client needs to take part, and nobody else may have. */
export interface Invitation {
  readonly kind: "scion-invitation";
  readonly version: 1;
  readonly run: string;
  readonly client: string;
  readonly addresses: readonly string[];
  readonly password: string;
  /** Proves once that the client's own key is to be believed. */
  readonly key: SigningKey;
  /** The coordinator's public key. */
  readonly coordinator: string;
}

/** Begin a federation, with new secrets and nobody invited. @throws {TuneError} `bad-option` for a name that is none. */
export async function foundFederation(
  server: NatsFederation["server"],
  addresses: readonly string[],
  servers = 1,
): Promise<NatsFederation> {
  checkName(server.run, "The name of the run");
  const problems = [
    ...(/^\d+[KMGT]B$/.test(server.maxFile) ? [] : [`maxFile is "${server.maxFile}", which is no size such as 20GB.`]),
    ...[server.listen, ...(server.websocket ? [server.websocket.listen] : [])]
      .filter((at) => !/^[\w.:[\]-]+:\d+$/.test(at))
      .map((at) => `"${at}" is no host and port such as 0.0.0.0:4222.`),
    ...(addresses.length === 0 ? ["There is no address at which clients reach the server."] : []),
    ...addresses
      .filter((at) => !/^(nats|tls|ws|wss):\/\/[^\s/]+$/.test(at))
      .map((at) => `"${at}" is no address such as nats://host:4222 or wss://host.`),
    ...clusterProblems(servers, addresses),
  ];
  if (problems.length > 0) throw new TuneError("bad-option", listing("The server cannot be like that:", problems));
  return {
    ...{ kind: "scion-federation", version: 1, server, addresses, clients: {} },
    ...(servers === 1 ? {} : { cluster: { servers, password: newPassword() } }),
    ...{ password: newPassword(), key: await newSigningKey() },
  };
}

/** What keeps some servers from being a cluster at these addresses. */
function clusterProblems(servers: number, addresses: readonly string[]): readonly string[] {
  if (servers === 1) return [];
  const own = serverAddresses(addresses);
  return [
    // An even number bears no more losses than the odd one below it.
    ...(servers === 3 || servers === 5 ? [] : [`There are ${servers} servers, but a cluster has 3 or 5.`]),
    ...(own.length === servers
      ? []
      : [`There are ${own.length} addresses such as nats://host:4222 for ${servers} servers.`]),
    ...(new Set(own).size === own.length ? [] : ["Two servers have the same address."]),
    ...own
      .filter((at) => !(portOf(at) > 0 && portOf(at) + routePort < 65_536))
      .map(
        (at) => `"${at}" has no port from 1 to ${65_535 - routePort}: servers reach each other ${routePort} above it.`,
      ),
  ];
}

/** Servers of a cluster reach each other at the port of their address and this. */
const routePort = 2000;

/** `host:port` of the addresses of servers, without those for pages. */
function serverAddresses(addresses: readonly string[]): readonly string[] {
  return addresses.filter((at) => /^(nats|tls):/.test(at)).map((at) => at.replace(/^\w+:\/\//, ""));
}

function portOf(address: string): number {
  return Number(/:(\d+)$/.exec(address)?.[1] ?? 0);
}

/**
 * Invite a client: it may write as itself alone. The server has to read its configuration again (SIGHUP) before it lets it in.
 * @throws {TuneError} `bad-option` for a name that is none; `client-exists`.
 */
export async function inviteClient(
  federation: NatsFederation,
  client: string,
): Promise<{ readonly federation: NatsFederation; readonly invitation: Invitation }> {
  checkName(client, "The name of a client");
  const withdrawn = federation.withdrawn?.includes(client) === true;
  if (client === coordinatorName || Object.hasOwn(federation.clients, client) || withdrawn) {
    const why = withdrawn ? `The invitation of ${client} was withdrawn.` : `There is a party ${client} already.`;
    throw new TuneError("client-exists", why, {
      at: federation.server.run,
      fix: "choose another name",
    });
  }
  const { server, addresses, key: coordinator } = federation;
  const [password, key] = [newPassword(), await newSigningKey()];
  const clients = { ...federation.clients, [client]: { password, invitation: key.publicKey } };
  return {
    federation: { ...federation, clients },
    invitation: {
      ...{ kind: "scion-invitation", version: 1, run: server.run, client, addresses, password, key },
      coordinator: coordinator.publicKey,
    },
  };
}

/**
 * Withdraw a client's invitation: the server lets it in no more once it has read its configuration again, and the coordinator, which
 * knows at once, asks it for nothing and believes nothing it says.
 * @throws {TuneError} `no-client` for who was not invited.
 */
export function withdrawClient(federation: NatsFederation, client: string): NatsFederation {
  const { [client]: gone, ...clients } = federation.clients;
  if (!Object.hasOwn(federation.clients, client) || gone === undefined) {
    const withdrawn = federation.withdrawn?.includes(client) === true;
    throw new TuneError("no-client", `${client} ${withdrawn ? "was withdrawn before" : "was not invited"}.`, {
      at: federation.server.run,
      fix: `name one of those that were: ${Object.keys(federation.clients).join(", ") || "there is none"}`,
    });
  }
  return { ...federation, clients, withdrawn: [...(federation.withdrawn ?? []), client] };
}

/** The configuration of the federation's nats-server. */
export function configOf({ server, password, clients }: NatsFederation): string {
  return natsConfig({
    ...server,
    coordinatorPassword: password,
    clients: Object.entries(clients).map(([name, client]) => ({ name, password: client.password })),
  });
}

/**
 * The files with which its servers start, by name: `nats.conf`, or `nats-1.conf` and so on of a cluster, each of which listens at the
 * port of its address and keeps what it keeps apart.
 */
export function configsOf(federation: NatsFederation): ReadonlyMap<string, string> {
  const { server, cluster, addresses } = federation;
  if (cluster === undefined) return new Map([["nats.conf", configOf(federation)]]);
  const own = serverAddresses(addresses);
  const host = server.listen.replace(/:\d+$/, "");
  const routes = own.map((at) => at.replace(/\d+$/, (port) => String(Number(port) + routePort)));
  return new Map(
    own.map((at, i) => [
      `nats-${i + 1}.conf`,
      configOf({
        ...federation,
        server: {
          ...server,
          listen: `${host}:${portOf(at)}`,
          store: `${server.store}-${i + 1}`,
          ...(server.pidFile === undefined ? {} : { pidFile: server.pidFile.replace(/\.pid$/, `-${i + 1}.pid`) }),
          cluster: {
            ...{ server: `scion-${i + 1}`, listen: `${host}:${portOf(at) + routePort}`, routes },
            password: cluster.password,
          },
        },
      }),
    ]),
  );
}

/** What a client's file says. @throws {TuneError} `bad-invitation` for what is none. */
export function readInvitation(value: unknown, at: string): Invitation {
  if (isJsonObject(value) && value["kind"] === "scion-invitation" && value["version"] === 1) {
    const { run, client, addresses, password, key, coordinator } = value;
    const texts = [
      run,
      client,
      password,
      coordinator,
      ...(isJsonObject(key) ? [key["publicKey"], key["privateKey"]] : [0]),
    ];
    if (texts.every((text) => typeof text === "string" && text !== "") && isTexts(addresses)) {
      checkName(String(run), "The name of the run");
      checkName(String(client), "The name of a client");
      return value as unknown as Invitation; // looked at just now
    }
  }
  throw notWritten("invitation", at);
}

/** What a coordinator's file says. @throws {TuneError} `bad-invitation` for what is none. */
export function readFederation(value: unknown, at: string): NatsFederation {
  if (isJsonObject(value) && value["kind"] === "scion-federation" && value["version"] === 1) {
    const { server, addresses, password, key, clients } = value;
    if (
      isJsonObject(server) &&
      isTexts(addresses) &&
      typeof password === "string" &&
      isJsonObject(key) &&
      isJsonObject(clients)
    ) {
      checkName(String(server["run"]), "The name of the run");
      return value as unknown as NatsFederation; // written by `foundFederation`, in a file with a checksum
    }
  }
  throw notWritten("federation", at);
}

/** How the parties below reach the server. */
export type ReachOptions = Pick<NatsOptions, "connect" | "replicas" | "patienceMs" | "ackWaitMs"> & {
  /** Addresses of the server, in place of those that the federation was set up with. */
  readonly servers?: readonly string[];
};

/** The coordinator's transport: signed, over NATS. Clients that are invited meanwhile are known by `federation` when it is called. */
export async function openCoordinator(
  federation: () => NatsFederation,
  { onForged, observes, ...reach }: ReachOptions & Pick<SignedCoordinator, "onForged" | "observes">,
): Promise<Transport & Pick<NatsTransport, "keep">> {
  const { server, addresses, cluster, password, key } = federation();
  const { run } = server;
  const nats = await openNats({
    ...{ servers: addresses, replicas: cluster?.servers ?? 1 },
    ...reach,
    run,
    party: coordinatorName,
    user: coordinatorName,
    password,
  });
  const invited = (client: string): string | undefined => {
    const { clients } = federation();
    return Object.hasOwn(clients, client) ? clients[client]?.invitation : undefined;
  };
  const options = { ...(onForged ? { onForged } : {}), ...(observes ? { observes } : {}) };
  return { ...(await signed(nats, { run, key, invited, ...options })), keep: nats.keep };
}

/**
 * A client's transport: signed, over NATS.
 * @param key the client's own, made once where it runs and kept there.
 * @throws {TuneError} `invitation-used` where the invitation was used with another key before, and what `openNats` throws.
 */
export async function openClient(invitation: Invitation, key: SigningKey, reach: ReachOptions): Promise<Transport> {
  const { run, client, addresses, password, coordinator } = invitation;
  const nats = await openNats({ servers: addresses, ...reach, run, party: client, user: client, password });
  try {
    const transport = await signed(nats, { run, key, invitation: invitation.key, coordinator });
    await transport.publish({ kind: "hello", id: key.publicKey, body: {} }); // refused where another has been here
    return transport;
  } catch (error) {
    await nats.close();
    throw error;
  }
}

function newPassword(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(24)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function checkName(name: string, what: string): void {
  if (natsToken.test(name)) return;
  throw new TuneError("bad-option", `${what} is of letters, digits, _ and -, at most 64, not "${name}".`, {
    fix: "choose another name",
  });
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && value.every((each) => typeof each === "string");
}

function notWritten(what: string, at: string): TuneError {
  return new TuneError("bad-invitation", `This is no ${what} that Scion wrote.`, {
    at,
    fix: what === "invitation" ? "ask the coordinator for the file again" : "name the file that scion wrote",
  });
}
