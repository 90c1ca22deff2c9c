import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { kernelsFile } from "../../scripts/build-kernels.ts";

it("ships what the sources give", async () => {
  const shipped = readFileSync(new URL("./wasm.ts", import.meta.url), "utf8");
  expect(shipped === (await kernelsFile()), "src/kernels/wasm.ts is stale: run npm run kernels").toBe(true);
});

it("computes the same bits with and without relaxed SIMD", () => {
  // Node 20 has relaxed SIMD behind a flag, so this asks a process of its own.
  const script = fileURLToPath(new URL("../../tests/helpers/relaxed-kernels.ts", import.meta.url));
  const options = ["--experimental-wasm-relaxed-simd", "--import", "tsx", script];
  const { stdout, stderr } = spawnSync(process.execPath, options, { encoding: "utf8" });
  expect(stdout + stderr).toBe("relaxed: equal");
});
