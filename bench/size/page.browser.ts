import { AutoModelForCausalLM, env, Tensor } from "@huggingface/transformers";
import { type Answered, type Asked, answer } from "./answer.ts";

/** What the page that `page.ts` opens can be asked. */
export interface AnsweringPage {
  answer(asked: Asked): Promise<Answered>;
}

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";
env.useBrowserCache = false;
const files = new URL("/runtime/", location.href).href;
const { wasm } = env.backends.onnx;
// What transformers.js asks a CDN for.
if (wasm)
  wasm.wasmPaths = {
    mjs: `${files}ort-wasm-simd-threaded.asyncify.mjs`,
    wasm: `${files}ort-wasm-simd-threaded.asyncify.wasm`,
  };

const page: AnsweringPage = { answer: (asked) => answer({ AutoModelForCausalLM, Tensor }, asked) };
Object.assign(globalThis, { scion: page });
