import { parentPort, workerData } from "node:worker_threads";
import { serveTeam, type ThreadStart } from "../kernels/team.ts";

// The entry of the worker that `node-threads.ts` starts.
serveTeam(workerData as ThreadStart, () => parentPort?.postMessage("ready"));
