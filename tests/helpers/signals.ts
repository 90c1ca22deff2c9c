import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";

/**
 * Whether a process has handlers of its own for the signals that `scion` answers, by its mask of caught signals; undefined
 * where the system does not tell (others than Linux). SIGHUP is asked for: Node catches SIGINT and SIGTERM itself as soon as
 * it starts, and `cli/interrupt.ts` sets SIGHUP's handler last.
 */
export function listens({ pid }: ChildProcess): boolean | undefined {
  if (process.platform !== "linux" || pid === undefined) return undefined;
  try {
    const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return mask === undefined ? undefined : (BigInt(`0x${mask}`) & 1n) === 1n; // SIGHUP is signal 1, the lowest bit
  } catch {
    return false; // it ended
  }
}

/** Wait until a process listens for signals, or has ended, or the system does not tell; how it was then. */
export async function untilListening(child: ChildProcess): Promise<boolean | undefined> {
  for (;;) {
    const now = child.exitCode === null && child.signalCode === null ? listens(child) : false;
    if (now !== false || child.exitCode !== null || child.signalCode !== null) return now;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
