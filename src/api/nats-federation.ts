import { TuneError } from "../errors.ts";
import {
  configsOf,
  foundFederation,
  type Invitation,
  inviteClient,
  type NatsFederation,
  openClient,
  openCoordinator,
  type ReachOptions,
  readFederation,
  readInvitation,
  withdrawClient,
} from "../federated/invitations.ts";
import { newSigningKey, type SigningKey } from "../federated/keys.ts";
import type { Transport } from "../federated/transport.ts";
import { parseJson } from "../io/json.ts";
import { joinPath, type Storage } from "../io/storage.ts";
import { checkNames, type NamesOf } from "../options.ts";
import { checkOutput, claimOutput } from "./outputs.ts";

/** How a federation over NATS is set up. */
export interface CreateFederationOptions {
  /** Its name: letters, digits, _ and -. */
  readonly run: string;
  /** Where the server listens, `host:port`; `0.0.0.0:4222` unless given. */
  readonly listen?: string;
  /** Addresses at which clients reach it, such as `nats://host:4222`, and `wss://host` for pages. */
  readonly addresses: readonly string[];
  /** The folder in which the server keeps what it keeps; `jetstream` in the federation's folder unless given. */
  readonly store?: string;
  /** The most that it keeps; `20GB` unless given. */
  readonly maxFile?: string;
  /** Where the server listens for pages, and the origins that they may come from. */
  readonly websocket?: { readonly listen: string; readonly origins: readonly string[] };
  /** Files of a certificate and its key. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  /**
   * 3 or 5 servers that keep the same, so that one or two may be lost: as many addresses, at whose ports they listen, and reach each
   * other 2000 above. 1 unless given.
   */
  readonly servers?: number;
}

const createNames: NamesOf<CreateFederationOptions> = {
  ...{
    run: true,
    listen: true,
    addresses: true,
    store: true,
    maxFile: true,
    websocket: true,
    tls: true,
    servers: true,
  },
};

/** Beside the configurations: both hold secrets, and are for their owner alone. */
const federationFile = "federation.json";

/**
 * Set up a federation over NATS: a folder with its secrets and `nats.conf`, with which `nats-server -c` starts (a cluster: `nats-1.conf` and so
 * on). Nobody is invited.
 * @throws {TuneError} `bad-option`; `run-exists` where the folder holds one already; `output-exists` where it holds something else.
 */
export async function createFederation(
  storage: Storage,
  folder: string,
  options: CreateFederationOptions,
): Promise<void> {
  checkNames(options, createNames, "createFederation");
  const { run, listen = "0.0.0.0:4222", addresses, maxFile = "20GB", websocket, tls } = options;
  const at = await storage.resolve(folder);
  const server = {
    ...{ run, listen, maxFile, store: options.store ?? joinPath(at, "jetstream"), pidFile: joinPath(at, "nats.pid") },
    ...(websocket ? { websocket } : {}),
    ...(tls ? { tls } : {}),
  };
  const federation = await foundFederation(server, addresses, options.servers);
  await checkOutput(storage, folder, "federation-setup");
  const lock = await storage.lock(folder);
  try {
    for (const name of [federationFile, ...configsOf(federation).keys()]) {
      if ((await storage.sizeBytes(joinPath(folder, name))) === undefined) continue;
      throw new TuneError("run-exists", `${folder} holds a federation already.`, {
        at: joinPath(folder, name),
        fix: "choose another folder; its secrets are what clients were invited with",
      });
    }
    await claimOutput(storage, folder, "federation-setup");
    await write(storage, folder, federation);
  } finally {
    await lock.release();
  }
}

/**
 * Invite a client to a federation, and write the server's configuration anew: the client is let in once the server has read it
 * (`nats-server --signal reload`); others stay connected.
 * @returns what the client needs, to be handed to it and nobody else.
 * @throws {TuneError} `client-exists`, `bad-invitation` where the folder holds no federation.
 */
export async function inviteToFederation(storage: Storage, folder: string, client: string): Promise<Invitation> {
  const lock = await storage.lock(folder);
  try {
    const { federation, invitation } = await inviteClient(await readIn(storage, folder), client);
    await write(storage, folder, federation);
    return invitation;
  } finally {
    await lock.release();
  }
}

/**
 * Withdraw a client's invitation, and write the server's configuration anew. A coordinator that runs asks it for nothing more; the
 * server closes its connection once it has read the configuration (`nats-server --signal reload`).
 * @throws {TuneError} `no-client` for who was not invited; `bad-invitation` where the folder holds no federation.
 */
export async function withdrawFromFederation(storage: Storage, folder: string, client: string): Promise<void> {
  const lock = await storage.lock(folder);
  try {
    await write(storage, folder, withdrawClient(await readIn(storage, folder), client));
  } finally {
    await lock.release();
  }
}

/**
 * The coordinator's transport of a federation that was set up in a folder. Who is invited later, or withdrawn, is known after
 * `refresh`. With `observes` it leaves clients to the coordinator that serves.
 * @throws {TuneError} as `openNats`.
 */
export async function openCoordinatorTransport(
  storage: Storage,
  folder: string,
  reach: ReachOptions & { readonly observes?: boolean },
): Promise<
  Transport & {
    readonly run: string;
    readonly withdrawn: () => readonly string[];
    readonly keep: (hashes: Iterable<string>) => Promise<void>;
    readonly refresh: () => Promise<void>;
  }
> {
  let federation = await readIn(storage, folder);
  const transport = await openCoordinator(() => federation, reach);
  const refresh = async (): Promise<void> => {
    federation = await readIn(storage, folder);
  };
  return { ...transport, run: federation.server.run, withdrawn: () => federation.withdrawn ?? [], refresh };
}

/**
 * A client's transport, from its invitation. The client's own key lies in its folder from the first time on: with it, and no
 * other, the invitation is good again.
 * @throws {TuneError} `bad-invitation`, `invitation-used`, `output-exists` for a folder of something else, and as `openNats`.
 */
export async function openClientTransport(
  storage: Storage,
  folder: string,
  invitation: Invitation | { readonly file: string },
  reach: ReachOptions,
): Promise<Transport> {
  const checked = await invitationOf(storage, invitation);
  const path = joinPath(folder, `${checked.run}.${checked.client}.key`);
  let key: SigningKey;
  if ((await storage.sizeBytes(path)) === undefined) {
    key = await newSigningKey();
    await claimOutput(storage, folder, "federation-client");
    await storage.write(path, JSON.stringify(key), { secret: true }); // before it is used
  } else key = parseJson(new TextDecoder().decode(await storage.read(path))) as SigningKey; // written above
  return openClient(checked, key, reach);
}

/** An invitation as it is, or in a file. */
async function invitationOf(storage: Storage, invitation: Invitation | { readonly file: string }): Promise<Invitation> {
  if (!("file" in invitation)) return readInvitation(invitation, "the invitation");
  const { file } = invitation;
  let value: unknown;
  try {
    value = parseJson(new TextDecoder().decode(await storage.read(file)));
  } catch (error) {
    if (error instanceof TuneError) throw error;
    value = undefined; // no JSON: refused below
  }
  return readInvitation(value, file);
}

async function readIn(storage: Storage, folder: string): Promise<NatsFederation> {
  const path = joinPath(folder, federationFile);
  let value: unknown;
  try {
    value = parseJson(new TextDecoder().decode(await storage.read(path)));
  } catch (error) {
    if (error instanceof TuneError) throw error;
    value = undefined; // no JSON: refused below
  }
  return readFederation(value, path);
}

async function write(storage: Storage, folder: string, federation: NatsFederation): Promise<void> {
  await storage.write(joinPath(folder, federationFile), `${JSON.stringify(federation, null, 2)}\n`, { secret: true });
  for (const [name, text] of configsOf(federation)) await storage.write(joinPath(folder, name), text, { secret: true });
}
