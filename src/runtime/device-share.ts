import { sessionClosed, TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";
import type { Device, Patch, Piece, ProgramId, ProgramSource, Reads, RunRequest, Writes } from "./device.ts";

/**
 * A share of a device: the same device, with names of its own. What others keep there under the same names is not touched,
 * so that any number of runs, evaluations and sessions may use one device at the same time. Closing a share frees every
 * program and buffer that it made and leaves the device open; afterwards there is nothing to discard or release, and every
 * other call rejects with {@link TuneError} `session-closed`.
 */
export function shareOf(device: Device): Device {
  return new DeviceShare(device);
}

/**
 * Make something that lives on a share of a device, and frees it by closing that share. When making it fails, the share
 * is closed at once.
 */
export async function onShare<T>(device: Device, make: (share: Device) => Promise<T>): Promise<T> {
  const share = shareOf(device);
  try {
    return await make(share);
  } catch (error) {
    await share.close().catch(() => undefined); // the first error says more
    throw error;
  }
}

/** Use a share of a device, and close it, however that ends. */
export async function withShare<T>(device: Device, use: (share: Device) => Promise<T>): Promise<T> {
  let opened: Device | undefined;
  const result = await onShare(device, (share) => {
    opened = share;
    return use(share);
  });
  await opened?.close();
  return result;
}

class DeviceShare implements Device {
  readonly #device: Device;
  readonly #prefix: string;
  readonly #programs = new Set<ProgramId>();
  readonly #buffers = new Set<string>();
  /** What requests hold, by the device's names. */
  readonly #renamed = new WeakMap<object, unknown>();
  #closing: Promise<void> | undefined;

  constructor(device: Device) {
    this.#device = device;
    this.#prefix = `${++shares}/`;
  }

  get provider(): string {
    return this.#device.provider;
  }

  get patches(): boolean {
    return this.#device.patches === true;
  }

  get inPlace(): boolean {
    return this.#device.inPlace === true;
  }

  async compile(source: ProgramSource): Promise<ProgramId> {
    this.#refuseClosed();
    const program = await this.#device.compile(source);
    if (this.#closing !== undefined) {
      await this.#device.release(program);
      this.#refuseClosed();
    }
    this.#programs.add(program);
    return program;
  }

  async run({ reads, writes, patches, ...request }: RunRequest): Promise<Readonly<Record<string, Tensor>>> {
    this.#refuseClosed();
    return this.#device.run({
      ...request,
      ...(reads && { reads: this.#reads(reads) }),
      ...(writes && { writes: this.#writes(writes) }),
      ...(patches && { patches: this.#patches(patches) }),
    });
  }

  async upload(name: string, tensor: Tensor, how?: { readonly lent?: boolean }): Promise<void> {
    this.#refuseClosed();
    await this.#device.upload(this.#made(name), tensor, how);
  }

  async download(name: string): Promise<Tensor> {
    this.#refuseClosed();
    return this.#device.download(this.#name(name));
  }

  async discard(names: readonly string[]): Promise<void> {
    if (this.#closing !== undefined) return;
    const own = names.map((name) => this.#name(name));
    await this.#device.discard(own);
    for (const name of own) this.#buffers.delete(name);
  }

  async release(program: ProgramId): Promise<void> {
    if (this.#closing !== undefined) return;
    await this.#device.release(program);
    this.#programs.delete(program);
  }

  close(): Promise<void> {
    this.#closing ??= this.#free();
    return this.#closing;
  }

  async #free(): Promise<void> {
    try {
      for (const program of this.#programs) await this.#device.release(program);
      await this.#device.discard([...this.#buffers]);
    } catch (error) {
      // A device that is gone holds nothing.
      if (!(error instanceof TuneError) || !gone.has(error.code)) throw error;
    }
  }

  #refuseClosed(): void {
    if (this.#closing !== undefined) throw sessionClosed();
  }

  #name = (name: string): string => this.#prefix + name;

  #made(name: string): string {
    const own = this.#name(name);
    this.#buffers.add(own);
    return own;
  }

  #reads(reads: Reads): Reads {
    return this.#once(reads, (buffer) => (typeof buffer === "string" ? this.#name(buffer) : buffer.map(this.#name)));
  }

  #writes(writes: Writes): Writes {
    const piece = ({ buffer, shape }: Piece): Piece => ({ buffer: this.#name(buffer), shape });
    const renamed = this.#once(writes, (to) => (typeof to === "string" ? this.#name(to) : to.map(piece)));
    for (const to of Object.values(renamed)) {
      for (const buffer of typeof to === "string" ? [to] : to.map((part) => part.buffer)) this.#buffers.add(buffer);
    }
    return renamed;
  }

  #patches(patches: NonNullable<RunRequest["patches"]>): NonNullable<RunRequest["patches"]> {
    const own = ({ buffer, places }: Patch): Patch => ({ buffer: this.#name(buffer), places: this.#name(places) });
    return this.#once(patches, (parts) => parts.map(own));
  }

  /** Renamed once: a run hands the same records over at every step. */
  #once<T>(record: Readonly<Record<string, T>>, to: (value: T) => T): Readonly<Record<string, T>> {
    const known = this.#renamed.get(record) as Readonly<Record<string, T>> | undefined; // what the same `to` gave
    if (known !== undefined) return known;
    const renamed = Object.fromEntries(Object.entries(record).map(([key, value]) => [key, to(value)]));
    this.#renamed.set(record, renamed);
    return renamed;
  }
}

let shares = 0;

const gone: ReadonlySet<string> = new Set(["device-closed", "worker-stopped"]);
