import { viewsOf } from "../../src/kernels/arena.ts";
import { chooseBuild, type KernelBuild, openKernels } from "../../src/kernels/module.ts";
import { createRng } from "../../src/linalg/index.ts";

// Prints which build this engine takes, and whether both give the same bits for a tile.
function sums(build: KernelBuild): string {
  const memory = new WebAssembly.Memory({ initial: 2, maximum: 2 });
  const { bytes, floats } = viewsOf(memory);
  const rng = createRng(1);
  for (let i = 1024; i < 32768; i++) bytes[i] = rng.integer(256);
  floats.fill(0.5, 16384, 16384 + 64);
  openKernels(memory, { build, shared: false }).tile(1024, 16384, 65536, 81920, 128);
  return floats.subarray(81920 / 4, 81920 / 4 + 64).join();
}

const build = chooseBuild();
process.stdout.write(`${build}: ${sums(build) === sums("strict") ? "equal" : "different"}`);
