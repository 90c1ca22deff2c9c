import { closeDevices } from "../runtime/node.ts";
import { exitCodes } from "./failure.ts";
import { ending } from "./leaving.ts";
import type { Output } from "./output.ts";

/** How long the second Ctrl-C waits for a computation that is under way. */
const graceMs = 1000;

/** A command's ear for Ctrl-C. */
export interface Interrupt {
  /** Aborted by the first Ctrl-C (or SIGTERM, or SIGHUP: its terminal is gone); a second one ends the process at once. */
  readonly signal: AbortSignal;
  /** Stop listening. */
  readonly release: () => void;
}

/** Listen for Ctrl-C; `doing` says what happens before the command stops, such as `Saving after this update`. */
export function listenForInterrupt(output: Output, doing: string): Interrupt {
  const stop = new AbortController();
  const onSignal = (): void => {
    if (ending.leaving) return;
    if (stop.signal.aborted) {
      release();
      void leave();
      return;
    }
    stop.abort();
    output.say("", `${doing}… (Ctrl-C again stops at once)`);
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) process.on(name, onSignal);
  ending.saves = true;
  const release = (): void => {
    for (const name of signals) process.off(name, onSignal);
  };
  return { signal: stop.signal, release };
}

/**
 * End the process. A worker that is ended while it computes takes the process down with an abort (onnxruntime-node 1.30), so
 * what is under way may end; if it takes longer, the signal does what it does to a process that does not listen.
 */
async function leave(): Promise<void> {
  ending.leaving = true;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(() => resolve("late"), graceMs);
  });
  const closed = closeDevices().catch(() => undefined);
  if ((await Promise.race([closed, late])) !== "late") process.exit(exitCodes.interrupted);
  clearTimeout(timer);
  process.kill(process.pid, "SIGINT"); // a shell calls that 130 too
  setTimeout(() => process.exit(exitCodes.interrupted), 100); // the first process of a container is not killed by itself
}
