import { assert } from "../../errors.ts";

/** The party that coordinates; every other name is a client's. */
export const coordinatorName = "coordinator";

/** Names of runs, clients and kinds of events are parts of subjects: letters, digits, `_` and `-`. */
export const natsToken: RegExp = /^[A-Za-z0-9_-]{1,64}$/;

/**
 * Subjects and streams of a run. Uploads and other events of clients lie in a work queue, objects a chunk a subject, so that they
 * are read without consumers; states a subject each, the coordinator's events in a log.
 */
export interface NatsNames {
  /** An event of a client, or of any with `*`. */
  event(client: string, kind: string): string;
  /** An event of the coordinator. */
  control(kind: string): string;
  state(name: string): string;
  /** A chunk of an object that a party has put; with `>` all of them. */
  chunk(party: string, sha256: string, index: number | ">"): string;
  /** The stream in which a party's objects are. */
  objects(party: string): string;
  readonly streams: Readonly<Record<"events" | "uploads" | "model" | "state" | "control", string>>;
  /** Where a client listens for answers; nobody else may. */
  inbox(party: string): string;
  /** What all clients ask of the coordinator's account. */
  readonly services: readonly string[];
  /** What the coordinator's account tells all clients. */
  readonly told: string;
  /** What one client may do, and nobody else as that client. */
  permissions(client: string): { readonly publish: readonly string[]; readonly subscribe: readonly string[] };
}

/** @param run its name, a {@link natsToken}. */
export function natsNames(run: string): NatsNames {
  assert(natsToken.test(run), `a run's name is of letters, digits, _ and -, not ${run}`);
  const root = `fl.${run}`;
  const streams = {
    events: `FL_${run}_UP`,
    uploads: `FL_${run}_OBJ`,
    model: `FL_${run}_MODEL`,
    state: `FL_${run}_STATE`,
    control: `FL_${run}_CTL`,
  };
  const reads = [
    `${directGet}.${streams.model}.${root}.model.>`,
    `${directGet}.${streams.state}.${root}.state.>`,
    `${directGet}.${streams.control}`,
  ];
  return {
    event: (client, kind) => `${root}.up.${client}.${kind}`,
    control: (kind) => `${root}.ctl.${kind}`,
    state: (name) => `${root}.state.${name}`,
    chunk: (party, hash, index) =>
      party === coordinatorName ? `${root}.model.${hash}.${index}` : `${root}.obj.${party}.${hash}.${index}`,
    objects: (party) => (party === coordinatorName ? streams.model : streams.uploads),
    streams,
    inbox: (party) => `_INBOX_${party}`,
    services: [`${root}.up.*.*`, `${root}.obj.*.>`, ...reads],
    told: `${root}.ctl.>`,
    permissions: (client) => ({
      publish: [`${root}.up.${client}.*`, `${root}.obj.${client}.>`, ...reads],
      subscribe: [`_INBOX_${client}.>`, `${root}.ctl.>`],
    }),
  };
}

/** Reads a message of a stream by its subject, or the next one of a subject, without a consumer. */
export const directGet = "$JS.API.DIRECT.GET";
