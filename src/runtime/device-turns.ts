import { TuneError } from "../errors.ts";
import type { StopSignal } from "../signal.ts";
import type { Device } from "./device.ts";

/** When the work that has a device now, and all that waits for it, is over. */
const ends = new WeakMap<Device, Promise<unknown>>();

/**
 * Do work that wants a device's memory for itself, such as a whole run: who comes second on the same device waits until the
 * first has ended. Evaluations and sessions do not ask; they may go on beside it.
 * @throws {TuneError} `interrupted` when the signal is aborted while waiting; what the work throws.
 */
export async function takeTurn<T>(device: Device, work: () => Promise<T>, signal?: StopSignal): Promise<T> {
  const before = ends.get(device) ?? Promise.resolve();
  let end = (): void => undefined;
  const own = new Promise<void>((resolve) => {
    end = resolve;
  });
  ends.set(
    device,
    before.then(() => own),
  );
  let refuse = (): void => undefined;
  const refused = new Promise<never>((_, reject) => {
    refuse = () => reject(stoppedWaiting());
  });
  try {
    signal?.addEventListener("abort", refuse);
    if (signal?.aborted) refuse();
    await Promise.race([before, refused]); // who need not wait sees the signal himself
    return await work();
  } finally {
    signal?.removeEventListener("abort", refuse);
    end();
  }
}

function stoppedWaiting(): TuneError {
  return new TuneError("interrupted", "The run was stopped while it waited for another on its device.", {
    fix: "run it again, or give it a device of its own",
  });
}
