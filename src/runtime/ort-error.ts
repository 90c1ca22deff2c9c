import { TuneError } from "../errors.ts";

/** How ONNX Runtime and the engines around it say that memory ran out. */
const outOfMemory =
  /failed to allocate|bad_alloc|out of memory|allocation (failed|size too large)|cannot enlarge memory/i;

/** Where ONNX Runtime names the node: `Name:'...'` while running, `In Node, ("..."` while loading. */
const nodeName = /Name:\s*'([^']+)'|In Node, \("([^"]+)"/;

/**
 * What ONNX Runtime threw, as a coded error that keeps its words and the node it names.
 * `code` is what it means when memory is not the reason.
 */
export function ortError(code: "program-rejected" | "run-failed", error: unknown): TuneError {
  if (error instanceof TuneError) return error;
  const reason = (error instanceof Error ? error.message : String(error)).trim();
  const match = nodeName.exec(reason);
  const node = match?.[1] ?? match?.[2];
  const options = { ...(node !== undefined && { at: `node ${node}` }), cause: error };
  if (outOfMemory.test(reason)) {
    return new TuneError("out-of-memory", `the device has not enough memory: ${reason}`, {
      ...options,
      fix: "lower the batch size or the sequence length, or choose a smaller model",
    });
  }
  const what =
    code === "program-rejected" ? "ONNX Runtime rejected the program" : "ONNX Runtime could not run the program";
  return new TuneError(code, `${what}: ${reason}`, options);
}
