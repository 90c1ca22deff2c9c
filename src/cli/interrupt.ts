import { exitCodes } from "./failure.ts";
import type { Output } from "./output.ts";

/** A command's ear for Ctrl-C. */
export interface Interrupt {
  /** Aborted by the first Ctrl-C (or SIGTERM); a second one ends the process at once. */
  readonly signal: AbortSignal;
  /** Stop listening. */
  readonly release: () => void;
}

/** Listen for Ctrl-C; `doing` says what happens before the command stops, such as `Saving after this update`. */
export function listenForInterrupt(output: Output, doing: string): Interrupt {
  const stop = new AbortController();
  const onSignal = (): void => {
    if (stop.signal.aborted) process.exit(exitCodes.interrupted);
    stop.abort();
    output.say(`\n${doing}… (Ctrl-C again stops at once)`);
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) process.on(name, onSignal);
  return {
    signal: stop.signal,
    release: () => {
      for (const name of signals) process.off(name, onSignal);
    },
  };
}
