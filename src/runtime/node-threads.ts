import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { TuneError } from "../errors.ts";
import type { ThreadHost } from "../kernels/team.ts";
import { freeBuffers } from "./node-memory.ts";

/** Worker threads that share kernel memory. They never keep the process alive. */
export const nodeThreads: ThreadHost = {
  threads: availableParallelism(),
  maySleep: true,
  freeBuffers,
  startThread: (start) =>
    new Promise((resolve, reject) => {
      const worker = openWorker(start);
      worker.once("message", () => {
        worker.unref();
        resolve(async () => void (await worker.terminate()));
      });
      const stopped = (why: string): void =>
        reject(new TuneError("worker-stopped", `A kernel thread did not start: ${why}.`, { fix: "use --threads 1" }));
      worker.once("error", (error) => stopped(error instanceof Error ? error.message : String(error)));
      worker.once("exit", (code) => stopped(`it exited with code ${code}`));
    }),
};

function openWorker(workerData: unknown): Worker {
  if (import.meta.url.endsWith(".js")) return new Worker(new URL("./node-thread.js", import.meta.url), { workerData });
  // Running from the sources: Node 20 workers cannot be given a TypeScript entry, so tsx is registered inside.
  const entry = JSON.stringify(new URL("./node-thread.ts", import.meta.url).href);
  const script = `import("tsx/esm/api").then(({ register }) => { register(); return import(${entry}); })`;
  return new Worker(script, { eval: true, workerData });
}
