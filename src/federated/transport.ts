/** Something that happened, told to whoever subscribes to its kind: small, as JSON. */
export interface TransportEvent {
  /** What sort of thing it is, such as `upload`; a word. */
  readonly kind: string;
  /** The party that says so: `coordinator`, or a client's name. An engine lets nobody use another's. */
  readonly from: string;
  /** The same for every repeat of the same event, so that it may be sent again after a failure. */
  readonly id: string;
  readonly body: unknown;
}

/** Where an object is, and what it must be. */
export interface ObjectRef {
  readonly sha256: string;
  readonly bytes: number;
  /** The party that put it. */
  readonly from: string;
}

/** What a state holds, and the number of changes that led there; revision 0 is a state that nobody has written. */
export interface StateEntry {
  readonly value: unknown;
  readonly revision: number;
}

/** Stops a subscription. */
export type Unsubscribe = () => Promise<void>;

/**
 * How the parties of one federation reach each other. An engine moves bytes and knows nothing of rounds or factors; none of its
 * own types comes out. Events come at least once, in any order, perhaps late: those who handle them must not mind.
 * Every method rejects with a `TuneError`: `transport-closed`, `transport-unreachable` (try again), `not-permitted`.
 */
export interface Transport {
  /** The party that speaks through this transport. */
  readonly party: string;
  /** Tell an event; resolved once the engine keeps it. */
  publish(event: Omit<TransportEvent, "from">): Promise<void>;
  /**
   * Hear events of a kind, those before the subscription that nobody has handled too. An event whose handler fails comes again.
   */
  subscribe(kind: string, handle: (event: TransportEvent) => Promise<void>): Promise<Unsubscribe>;
  /** Keep bytes for the others. */
  put(bytes: Uint8Array): Promise<ObjectRef>;
  /**
   * Bytes that a party has put, checked against their length, before memory is taken, and their hash.
   * @throws {TuneError} `object-missing`, `object-damaged`.
   */
  get(ref: ObjectRef): Promise<Uint8Array>;
  /**
   * Change a state by compare-and-set: what `change` makes of the entry that stands is written if nobody has written in between;
   * else it is asked again of what stands then. A `change` that gives undefined leaves the state as it is, which is how to read.
   * @returns the entry that stands afterwards.
   */
  update(state: string, change: (now: StateEntry) => unknown): Promise<StateEntry>;
  /** Remove all objects but those with these hashes, where the engine can and the party may; the coordinator does, round by round. */
  keep?(hashes: Iterable<string>): Promise<void>;
  /** Let go of connections; subscriptions end. Closing twice is fine. */
  close(): Promise<void>;
}
