import { assert, TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import type { Device, DeviceOptions, ProgramId, ProgramSource, RunRequest } from "./device.ts";
import {
  type Call,
  detached,
  type Method,
  type Port,
  type Reply,
  type Traits,
  transferable,
  unpackError,
} from "./port.ts";

/** A worker that runs `serveDevice`, and how its life is watched and ended. */
export interface DeviceWorker {
  readonly port: Port;
  /** Resolves with the reason when the worker stops, for whatever reason; it may never resolve. */
  readonly stopped: Promise<string>;
  /** End the worker now. */
  terminate(): Promise<void>;
  /** Say whether the process has to stay for the worker: while calls are under way. Absent where nothing ends by itself. */
  readonly keepAlive?: (needed: boolean) => void;
}

/**
 * Open a device inside a worker: the same interface, each call a message there and back.
 * @throws {TuneError} what opening the device threw there, or `worker-stopped` when the worker did not start.
 */
export async function openRemoteDevice(worker: DeviceWorker, options: DeviceOptions): Promise<Device> {
  const calls = new Calls(worker);
  try {
    const opened = (await calls.make("open", [options])) as Traits; // as the host answers
    return new RemoteDevice(calls, worker, opened);
  } catch (error) {
    await worker.terminate();
    throw error;
  }
}

class RemoteDevice implements Device {
  readonly provider: string;
  readonly patches: boolean;
  readonly inPlace: boolean;
  readonly #calls: Calls;
  readonly #worker: DeviceWorker;
  #closing: Promise<void> | undefined;

  constructor(calls: Calls, worker: DeviceWorker, { provider, patches = false, inPlace = false }: Traits) {
    this.#calls = calls;
    this.#worker = worker;
    this.provider = provider;
    this.patches = patches;
    this.inPlace = inPlace;
  }

  // Each result has the type that the same method of the device in the worker gave it.

  async compile(source: ProgramSource): Promise<ProgramId> {
    const externalData = source.externalData?.map(({ path, data }) => ({ path, data: detached(data) })) ?? [];
    const weights = mapValues(source.weights ?? {}, portable);
    const moved = transferable([...externalData, ...Object.values(weights)].map(({ data }) => data));
    const model = detached(source.model);
    return (await this.#calls.make("compile", [{ ...source, model, externalData, weights }], moved)) as ProgramId;
  }

  async run(request: RunRequest): Promise<Readonly<Record<string, Tensor>>> {
    const sent = { ...request, feeds: mapValues(request.feeds, portable) };
    return (await this.#calls.make("run", [sent])) as Readonly<Record<string, Tensor>>;
  }

  async upload(name: string, tensor: Tensor): Promise<void> {
    await this.#calls.make("upload", [name, portable(tensor)]);
  }

  async download(name: string): Promise<Tensor> {
    return (await this.#calls.make("download", [name])) as Tensor;
  }

  async discard(names: readonly string[]): Promise<void> {
    await this.#calls.make("discard", [names]);
  }

  async release(program: ProgramId): Promise<void> {
    await this.#calls.make("release", [program]);
  }

  async close(): Promise<void> {
    if (this.#closing !== undefined || this.#calls.ended) return this.#closing;
    const done = this.#calls.make("close", []);
    const closed = new TuneError("device-closed", "the device has been closed.");
    this.#calls.end(closed);
    this.#closing = this.#terminate(done, closed);
    await this.#closing;
  }

  async #terminate(done: Promise<unknown>, closed: TuneError): Promise<void> {
    try {
      await done.catch(ignoreStopped);
    } finally {
      await this.#worker.terminate();
      this.#calls.reject(closed); // a page is not told when a worker has ended
    }
  }
}

/** Calls on their way: matched to replies by number, and all rejected when the worker is gone. */
class Calls {
  readonly #port: Port;
  readonly #keepAlive: (needed: boolean) => void;
  readonly #waiting = new Map<number, { resolve(result: unknown): void; reject(reason: Error): void }>();
  #made = 0;
  #end: TuneError | undefined;

  constructor({ port, stopped, keepAlive = () => undefined }: DeviceWorker) {
    this.#port = port;
    this.#keepAlive = keepAlive;
    port.receive((message) => this.#settle(message as Reply)); // the host at the other end sends nothing else
    void stopped.then((reason) => {
      const error = new TuneError("worker-stopped", `the worker that runs the programs has stopped: ${reason}.`, {
        fix: "open the device again; if memory ran out, lower the batch size or the sequence length",
      });
      this.end(error);
      this.reject(this.#end ?? error);
    });
  }

  /** Whether no further call can be made. */
  get ended(): boolean {
    return this.#end !== undefined;
  }

  /** Refuse further calls with `reason`; those under way go on. */
  end(reason: TuneError): void {
    this.#end ??= reason;
  }

  /** Reject all calls under way. */
  reject(reason: TuneError): void {
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }

  make(method: Method, args: readonly unknown[], transfer: ArrayBuffer[] = []): Promise<unknown> {
    if (this.#end !== undefined) return Promise.reject(this.#end);
    this.#made += 1;
    const call: Call = { id: this.#made, method, args };
    return new Promise((resolve, reject) => {
      this.#port.send(call, transfer);
      this.#waiting.set(call.id, { resolve, reject });
      this.#keepAlive(true);
    });
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting.get(reply.id);
    assert(waiting !== undefined, `an answer to call ${reply.id}, which nobody made`);
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) this.#keepAlive(false);
    if ("error" in reply) waiting.reject(unpackError(reply.error));
    else waiting.resolve(reply.result);
  }
}

/** A worker that has stopped holds nothing any more. */
function ignoreStopped(error: unknown): void {
  if (!(error instanceof TuneError) || error.code !== "worker-stopped") throw error;
}

function mapValues<A, B>(record: Readonly<Record<string, A>>, of: (value: A) => B): Readonly<Record<string, B>> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, of(value)]));
}

function portable({ dtype, shape, data }: Tensor): Tensor {
  // Every typed array has a `slice` that returns its own kind; the union of their signatures hides it.
  return { dtype, shape, data: detached(data as Float32Array) };
}
