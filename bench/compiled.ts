import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/**
 * A side of a benchmark in plain JavaScript, with the workers that it may start: what a user of the package runs. A
 * loader of TypeScript takes 55 MB in the process, which are not Scion's.
 * @returns the path of the program.
 */
export async function compiled(side: string): Promise<string> {
  const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
  const outdir = here(`../node_modules/.cache/scion-bench/${side}`);
  await build({
    entryPoints: {
      [side]: here(`${side}.ts`),
      "node-worker": here("../src/runtime/node-worker.ts"),
      "node-thread": here("../src/runtime/node-thread.ts"),
    },
    outdir,
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    packages: "external",
    logLevel: "error",
  });
  return `${outdir}/${side}.js`;
}
