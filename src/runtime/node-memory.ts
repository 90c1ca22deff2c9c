import { freemem, totalmem } from "node:os";
import { MessageChannel } from "node:worker_threads";
import { linuxAvailable } from "./memory-limits.ts";
import { readSmall } from "./node-small-file.ts";
import type { MemoryUse } from "./platform.ts";

/** What this process takes, and what the machine, its container or its own limits leave to it. */
export function nodeMemory(): MemoryUse {
  const processBytes = process.memoryUsage().rss;
  const limit = process.constrainedMemory();
  const allowed = limit !== undefined && limit > 0 && limit < totalmem() ? limit - processBytes : freemem();
  const available = Math.min(allowed, freemem(), linuxAvailable(readSmall) ?? Number.POSITIVE_INFINITY);
  return { processBytes, availableBytes: Math.max(0, available) };
}

const { port1: drain, port2: end } = new MessageChannel();
end.close();

/**
 * Free the memory of buffers that nobody reads any more, now: they are sent to a port that nobody listens to, and are
 * empty afterwards. Left to itself, V8 keeps the bytes of a model's weights for minutes after ONNX Runtime has copied
 * them, and tens of megabytes of parameters that later ones have replaced.
 */
export function freeBuffers(buffers: readonly ArrayBufferView[]): void {
  for (const buffer of new Set(buffers.map(({ buffer }) => buffer)))
    if (buffer instanceof ArrayBuffer) drain.postMessage(undefined, [buffer]);
}
