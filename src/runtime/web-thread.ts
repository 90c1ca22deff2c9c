import { serveTeam, type ThreadStart } from "../kernels/team.ts";

// The entry of the worker that `web-threads.ts` starts. The DOM types describe a page; a worker's scope posts like a port.
const scope = globalThis as unknown as Pick<MessagePort, "postMessage" | "addEventListener">;
scope.addEventListener("message", ({ data }) => serveTeam(data as ThreadStart, () => scope.postMessage("ready")));
