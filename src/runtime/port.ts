import { TuneError } from "../errors.ts";
import type { Device } from "./device.ts";

/** One end of a message channel: a worker seen from outside, or the outside seen from a worker. */
export interface Port {
  /** Send a structured clone, moving the buffers listed in `transfer`. */
  send(message: unknown, transfer: ArrayBuffer[]): void;
  /** Call `handler` with each message that arrives. Called once. */
  receive(handler: (message: unknown) => void): void;
}

/** What a device says of itself; it crosses the channel once, when the device is opened. */
export type Traits = Pick<Device, "provider" | "patches" | "inPlace">;

/** A method of {@link Device} that crosses the channel, or `open`, which makes the device. */
export type Method = "open" | Exclude<keyof Device, keyof Traits>;

/** What the outside sends. */
export interface Call {
  readonly id: number;
  readonly method: Method;
  readonly args: readonly unknown[];
}

/** What the worker answers. */
export type Reply =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: WireError };

/** An error as it crosses the channel: structured clone would keep its message alone. */
export type WireError =
  | { readonly kind: "tune"; readonly code: string; readonly what: string; readonly at?: string; readonly fix?: string }
  | { readonly kind: "other"; readonly message: string; readonly stack: string | undefined };

/** An error, ready to be sent. */
export function packError(error: unknown): WireError {
  if (error instanceof TuneError) {
    const { code, what, at, fix } = error;
    return { kind: "tune", code, what, ...(at !== undefined && { at }), ...(fix !== undefined && { fix }) };
  }
  if (error instanceof Error) return { kind: "other", message: error.message, stack: error.stack };
  return { kind: "other", message: String(error), stack: undefined };
}

/** The error that was sent, with the same code, text and, for a broken invariant, the stack it had there. */
export function unpackError(wire: WireError): Error {
  if (wire.kind === "tune")
    return new TuneError(wire.code, wire.what.split("\n"), {
      ...wire,
      ...(wire.fix !== undefined && { fix: wire.fix.split("\n") }),
    });
  const error = new Error(wire.message);
  if (wire.stack !== undefined) error.stack = wire.stack;
  return error;
}

/**
 * A typed array that can be cloned or moved alone: itself when it fills its buffer, otherwise a copy (cloning a
 * view would clone all that it is a view of).
 */
export function detached<T extends { readonly buffer: ArrayBufferLike; readonly byteLength: number; slice(): T }>(
  data: T,
): T {
  return data.byteLength === data.buffer.byteLength ? data : data.slice();
}

/** The buffers to move along with typed arrays that nobody here needs any more. */
export function transferable(arrays: Iterable<{ readonly buffer: ArrayBufferLike }>): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>();
  for (const { buffer } of arrays) if (buffer instanceof ArrayBuffer) buffers.add(buffer);
  return [...buffers];
}
