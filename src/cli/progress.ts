import { printableName } from "../printable.ts";
import { type ProgressTarget, progressTarget, rewrite } from "./terminal.ts";

/** One line that is rewritten on a terminal; elsewhere a line now and then. */
export interface ProgressLine {
  /** Show how far things are. */
  update(text: string): void;
  /** Make room for other text; the next update starts a new line. */
  clear(): void;
}

const quietMs = 5000;

/** Show progress on `target`, standard error unless given; where it is no terminal, at most every five seconds. */
export function createProgress(
  target: ProgressTarget = progressTarget(),
  now: () => number = () => performance.now(),
): ProgressLine {
  let shown = false;
  let last = Number.NEGATIVE_INFINITY;
  return {
    update: (text) => {
      if (target.isTTY) {
        rewrite(target, text.slice(0, Math.max(20, (target.columns ?? 80) - 1)));
        shown = true;
      } else if (now() - last >= quietMs) {
        target.write(`${printableName(text)}\n`);
        last = now();
      }
    },
    clear: () => {
      if (shown) rewrite(target, "");
      shown = false;
    },
  };
}

/** A duration as people say it: `1 h 05 min`, `3 min 20 s`, `12 s`. */
export function duration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** A count as people write it: `1,234,567`. */
export function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}
