import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

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
