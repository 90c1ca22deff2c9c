import { serveDevice } from "./device-host.ts";
import { openOrtWeb } from "./web-ort.ts";

// The entry of the worker that `web.ts` starts. The DOM types describe a page; a worker's own scope posts like a port.
const scope = globalThis as unknown as Pick<MessagePort, "postMessage" | "addEventListener">;
serveDevice(
  {
    send: (message, transfer) => scope.postMessage(message, transfer),
    receive: (handler) => scope.addEventListener("message", ({ data }) => handler(data)),
  },
  openOrtWeb,
);
