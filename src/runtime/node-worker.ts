import { parentPort } from "node:worker_threads";
import { assert } from "../errors.ts";
import { serveDevice } from "./device-host.ts";
import { openOrtNode } from "./node-ort.ts";

// The entry of the worker that `node.ts` starts.
const parent = parentPort;
assert(parent !== null, "node-worker.ts runs in a worker");
serveDevice(
  {
    send: (message, transfer) => parent.postMessage(message, transfer),
    receive: (handler) => parent.on("message", handler),
  },
  openOrtNode,
);
