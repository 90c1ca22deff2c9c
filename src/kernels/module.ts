import type { KernelMemory } from "./arena.ts";
import { relaxed, strict } from "./wasm.ts";

/** What the module exports; what each does is said in `assembly/`. Addresses and sizes are numbers. */
export interface Kernels {
  run(thread: number, threads: number, steps: number, count: number, sync: number, maySleep: number): void;
  release(word: number): void;
  waitFor(word: number, generation: number, maySleep: number): void;
  makeTables(thread: number, threads: number, args: number): void;
  product(thread: number, threads: number, args: number): void;
  tile(planes: number, tables: number, scales: number, y: number, count: number): void;
  dense(thread: number, threads: number, args: number): void;
  read(from: number, end: number): number;
}

/** The builds of the kernels: `relaxed` looks up without a check that indices are below 16, which they always are. */
export type KernelBuild = "strict" | "relaxed";

const builds: Readonly<Record<KernelBuild, string>> = { strict, relaxed };

/** A module that uses i8x16.relaxed_swizzle and nothing else. */
const probe = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2,
];
const probeEnd = [253, 15, 253, 128, 2, 11];

/** The fastest build that this engine takes: relaxed SIMD is in V8 from 11.4 on (Chrome 114, Node 21). */
export function chooseBuild(): KernelBuild {
  return WebAssembly.validate(Uint8Array.from([...probe, ...probeEnd])) ? "relaxed" : "strict";
}

/** Bytes of a build, for memory that threads share or that one thread has for itself. */
export function kernelBinary(build: KernelBuild, shared: boolean): Uint8Array<ArrayBuffer> {
  const text = atob(builds[build]);
  const binary = Uint8Array.from(text, (character) => character.charCodeAt(0));
  if (!shared) unshare(binary);
  return binary;
}

/** Compile and start the kernels on a memory. */
export function openKernels(
  memory: KernelMemory,
  { build = chooseBuild(), shared }: { readonly build?: KernelBuild; readonly shared: boolean },
): Kernels {
  const module = new WebAssembly.Module(kernelBinary(build, shared));
  const { exports } = new WebAssembly.Instance(module, { env: { memory: memory as WebAssembly.Memory } }); // the arena made it
  return exports as unknown as Kernels; // what the sources export
}

/**
 * Let the binary import a memory that is not shared: pages that are not isolated have no other. The limits of the one
 * imported memory say "shared" by a flag (2) after the import's name and kind (2, memory).
 */
function unshare(binary: Uint8Array): void {
  const name = new TextEncoder().encode("\u0003env\u0006memory\u0002");
  const at = binary.findIndex((_, i) => name.every((byte, j) => binary[i + j] === byte));
  binary[at + name.length] = 1; // a minimum and a maximum
}
