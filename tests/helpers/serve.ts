import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { pipeline } from "node:stream/promises";
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
 * `folders` are served as they are, each below its name, however large their files.
 */
export async function servePage(
  entries: Readonly<Record<string, string>>,
  folders: Readonly<Record<string, string>> = {},
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
    const name = decodeURIComponent((request.url ?? "/").slice(1).replace(/\?.*/, ""));
    const [folder = "", ...rest] = name.split("/");
    const isolated = {
      "content-type": types[extname(name)] ?? "text/html",
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    };
    const path = folders[folder] === undefined ? undefined : join(folders[folder], ...rest);
    const info = path === undefined ? undefined : await stat(path).catch(() => undefined);
    if (path !== undefined && info?.isFile()) {
      response.writeHead(200, { ...isolated, "content-length": info.size });
      await pipeline(createReadStream(path), response).catch(() => response.destroy()); // a page that has gone
      return;
    }
    const isOrt = /^ort[\w.-]*$/.test(name);
    const content =
      files.get(name) ?? (isOrt ? await readFile(join(ortFiles, name)).catch(() => undefined) : undefined);
    response.writeHead(content === undefined ? 404 : 200, isolated);
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
