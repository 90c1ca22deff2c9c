import { exitCodes } from "./failure.ts";
import { ending } from "./leaving.ts";
import type { Output } from "./output.ts";
import { print } from "./terminal.ts";

/** How long the first Ctrl-C waits for a computation that is under way, and the second. */
const [patienceMs, graceMs] = [5000, 1000];
/** How long a command may take to clear up, once its devices are closed. */
const clearingMs = 3000;

/** A command's ear for Ctrl-C. */
export interface Interrupt {
  /** Aborted by the first Ctrl-C (or SIGTERM, or SIGHUP: its terminal is gone); a second one ends the process at once. */
  readonly signal: AbortSignal;
  /** Stop listening. */
  readonly release: () => void;
}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** What a command does at a signal; without one, the process is left. */
let answer: (() => void) | undefined;
let leaving: Promise<void> | undefined;

/** Whatever command runs: a signal ends it with 130, closing what it has open, unless it listens itself. */
export function endOnSignals(): () => void {
  for (const name of signals) process.on(name, onSignal);
  return () => {
    for (const name of signals) process.off(name, onSignal);
  };
}

function onSignal(): void {
  if (ending.leaving) hurry();
  else if (answer) answer();
  else void leave(exitCodes.interrupted);
}

/** Listen for Ctrl-C; `doing` says what happens before the command stops, such as `Saving after this update`. */
export function listenForInterrupt(output: Output, doing: string): Interrupt {
  const stop = new AbortController();
  const listensAlready = process.listeners("SIGINT").includes(onSignal);
  const silence = listensAlready ? () => undefined : endOnSignals();
  const own = (): void => {
    if (stop.signal.aborted) {
      void leave(exitCodes.interrupted);
      hurry();
      return;
    }
    stop.abort();
    output.say("", `${doing}… (Ctrl-C again stops at once)`);
  };
  answer = own;
  ending.saves = true;
  const release = (): void => {
    if (answer === own) answer = undefined;
    silence();
  };
  return { signal: stop.signal, release };
}

/**
 * End the process with a code. A worker that is ended while it computes takes the process down with an abort
 * (onnxruntime-node 1.30), so what is under way may end; what the command does next fails, and it clears up.
 */
export function leave(code: number): Promise<void> {
  leaving ??= leaveOnce(code);
  return leaving;
}

/** The process is being left: the end of that. */
export function left(): Promise<void> | undefined {
  return leaving;
}

async function leaveOnce(code: number): Promise<void> {
  ending.leaving = true;
  const late = setTimeout(hurry, patienceMs - graceMs);
  const said = setTimeout(() => print("stderr", "Stopping… (Ctrl-C again stops at once)\n"), 500);
  const { closeDevices } = await import("../runtime/node.ts");
  await closeDevices().catch(() => undefined);
  clearTimeout(late);
  clearTimeout(said);
  ending.closed = true;
  process.exitCode = code;
  setTimeout(() => process.exit(code), hurried ? 0 : clearingMs);
}

let hurried = false;

/** Not longer than a second from now: then the signal does what it does to a process that does not listen. */
function hurry(): void {
  if (hurried) return;
  hurried = true;
  if (ending.closed) process.exit(exitCodes.interrupted);
  setTimeout(() => {
    for (const name of signals) process.removeAllListeners(name);
    process.kill(process.pid, "SIGINT"); // a shell calls that 130 too
    setTimeout(() => process.exit(exitCodes.interrupted), 100); // the first process of a container is not killed by itself
  }, graceMs);
}
