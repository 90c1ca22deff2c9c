import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));
const ortFiles = join(root, "node_modules/onnxruntime-web/dist");
const types: Readonly<Record<string, string>> = {
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/**
 * Bundle TypeScript entries for a page and serve them on this machine, cross-origin isolated, with ONNX Runtime's
 * own files beside them. `entries` maps a name to a source file: `{ page: "src/x.browser.ts" }` is at `/page.js`.
 */
export async function servePage(
  entries: Readonly<Record<string, string>>,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const bundled = await build({
    entryPoints: { ...entries },
    absWorkingDir: root,
    outdir: "bundle",
    bundle: true,
    write: false,
    format: "esm",
    // ONNX Runtime starts its threads from its own module, so it must stay a file of its own.
    splitting: true,
    platform: "browser",
    target: "es2022",
    sourcemap: "inline",
  });
  const files = new Map(
    bundled.outputFiles.map(({ path, contents }) => [path.split(/[\\/]/).at(-1) ?? path, contents]),
  );
  files.set("", new TextEncoder().encode(`<!doctype html><meta charset="utf-8"><title>Scion</title>`));
  const server = createServer(async (request, response) => {
    const name = (request.url ?? "/").slice(1).replace(/\?.*/, "");
    const isOrt = /^ort[\w.-]*$/.test(name);
    const content =
      files.get(name) ?? (isOrt ? await readFile(join(ortFiles, name)).catch(() => undefined) : undefined);
    response.writeHead(content === undefined ? 404 : 200, {
      "content-type": types[extname(name)] ?? "text/html",
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    });
    response.end(content);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo; // it listens on a port, not on a pipe
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
