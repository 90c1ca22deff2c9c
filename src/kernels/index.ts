/**
 * WebAssembly kernels: products with packed matrices by table look-up, and what a decoder computes beside them.
 * The sources are in `assembly/` (AssemblyScript), what is shipped in `wasm.ts`, and the plain meaning of each kernel in
 * `reference.ts`. This room knows memory, programs and threads; it knows no model, and starts no threads itself.
 */
export * from "./arena.ts";
export * from "./module.ts";
export * from "./packed-product.ts";
export * from "./program.ts";
export * from "./team.ts";
