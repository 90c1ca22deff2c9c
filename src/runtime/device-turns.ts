import { TuneError } from "../errors.ts";
import type { Device } from "./device.ts";

/** When the work that has a device now, and all that waits for it, is over. */
const ends = new WeakMap<Device, Promise<unknown>>();

/**
 * Do work that wants a device's memory for itself, such as a whole run: who comes second on the same device waits until the
 * first has ended. Evaluations and sessions do not ask; they may go on beside it.
 * @throws {TuneError} `interrupted` when the signal is aborted while waiting; what the work throws.
 */
export async function takeTurn<T>(device: Device, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const before = ends.get(device) ?? Promise.resolve();
  let end = (): void => undefined;
  const own = new Promise<void>((resolve) => {
    end = resolve;
  });
  ends.set(
    device,
    before.then(() => own),
  );
  const waiting = new AbortController();
  try {
    await Promise.race([before, abortOf(signal, waiting.signal)]);
    waiting.abort();
    return await work();
  } finally {
    waiting.abort();
    end();
  }
}

/** Rejects when the signal is aborted; looked at until `over` is. */
function abortOf(signal: AbortSignal | undefined, over: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const refuse = (): void =>
      reject(
        new TuneError("interrupted", "The run was stopped while it waited for another on its device.", {
          fix: "run it again, or give it a device of its own",
        }),
      );
    if (signal?.aborted) refuse();
    signal?.addEventListener("abort", refuse, { once: true, signal: over });
  });
}
