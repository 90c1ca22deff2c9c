import { TuneError } from "../errors.ts";
import type { ThreadHost } from "../kernels/team.ts";

/**
 * Web workers that share kernel memory, where the page is cross-origin isolated; one thread elsewhere. A page may not
 * sleep on shared memory, a worker may.
 */
export const webThreads: ThreadHost = {
  get threads() {
    return globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  },
  get maySleep() {
    return !("document" in globalThis);
  },
  startThread: (start) =>
    new Promise((resolve, reject) => {
      // Bundlers look for this very expression.
      const worker = new Worker(new URL("./web-thread.js", import.meta.url), { type: "module" });
      worker.addEventListener("message", () => resolve(async () => worker.terminate()), { once: true });
      worker.addEventListener("error", ({ message }) => {
        const why = message || "its script could not be loaded";
        reject(new TuneError("worker-stopped", `A kernel thread did not start: ${why}.`, { fix: "use one thread" }));
      });
      worker.postMessage(start);
    }),
};
