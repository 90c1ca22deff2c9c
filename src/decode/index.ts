/**
 * Decoding packed models on the WebAssembly kernels: a model's recipe becomes a program of steps over one memory, which
 * threads run token by token. It gives the same `Decoder` as ONNX Runtime's, so whoever continues texts knows no
 * difference. It never trains, and what has no recipe it leaves to ONNX Runtime.
 */
export * from "./engine.ts";
export * from "./updates.ts";
