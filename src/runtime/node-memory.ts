import { freemem, totalmem } from "node:os";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { MemoryUse } from "./platform.ts";

/** What this process takes, and what the machine or its container leaves to it. */
export function nodeMemory(): MemoryUse {
  const processBytes = process.memoryUsage().rss;
  const limit = process.constrainedMemory();
  const allowed = limit !== undefined && limit > 0 && limit < totalmem() ? limit - processBytes : freemem();
  return { processBytes, availableBytes: Math.max(0, Math.min(allowed, freemem())) };
}

let collect: (() => void) | undefined;

/**
 * Free the memory of buffers that nobody reads any more, now. Left to itself, V8 frees the bytes of a model's weights
 * minutes after ONNX Runtime has copied them, with the first training steps on top of them.
 */
export function freeBuffers(buffers: readonly Uint8Array[]): void {
  // A transferred buffer is empty for whoever still holds it; the one that took its bytes is garbage at once.
  for (const { buffer } of buffers) if (buffer instanceof ArrayBuffer) structuredClone(buffer, { transfer: [buffer] });
  collect ??= exposeGc();
  collect();
}

function exposeGc(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void; // the flag defines it in new contexts
}
