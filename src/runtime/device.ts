import type { DataOf, DType, Tensor } from "../graph/index.ts";

/** A compiled program on a device. */
export type ProgramId = number;

/** What a device needs to make a program. */
export interface ProgramSource {
  /** A serialised ONNX model (its large initializers external, named by offset into `externalData`). */
  readonly model: Uint8Array;
  /** External data files by the location that the model names, handed over whole. */
  readonly externalData?: readonly { readonly path: string; readonly data: Uint8Array }[];
  /** Outputs that stay on the device as buffers; every other output is read back. */
  readonly residentOutputs?: readonly string[];
}

/**
 * What a run reads and writes. Buffers are named tensors that live on the device between runs (parameters,
 * optimiser state, KV cache); small things (token ids, the learning rate, the loss) travel with the call.
 */
export interface RunRequest {
  readonly program: ProgramId;
  /** Input name -> tensor sent with this call. */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** Input name -> name of the resident buffer it reads. */
  readonly reads?: Readonly<Record<string, string>>;
  /** Output name -> name of the resident buffer it replaces once the run has ended (never before). */
  readonly writes?: Readonly<Record<string, string>>;
}

/**
 * Where programs run: one interface for ONNX Runtime in this thread, in a worker, in Node or in a page.
 * A run that fails leaves every resident buffer as it was.
 */
export interface Device {
  /** `cpu`, `webgpu`, `cuda` or `wasm`: the execution provider that programs run on. */
  readonly provider: string;
  /** Compile a model. @throws {TuneError} `program-rejected` with ONNX Runtime's reason. */
  compile(source: ProgramSource): Promise<ProgramId>;
  /** Run a program and return the outputs that are not resident. */
  run(request: RunRequest): Promise<Readonly<Record<string, Tensor>>>;
  /** Place a tensor in a named resident buffer. */
  upload(name: string, tensor: Tensor): Promise<void>;
  /** Copy a resident buffer back. */
  download(name: string): Promise<Tensor>;
  /** Free resident buffers. */
  discard(names: readonly string[]): Promise<void>;
  /** Free a program. */
  release(program: ProgramId): Promise<void>;
  /** Free everything, and end the worker where there is one. */
  close(): Promise<void>;
}

/** What the environment offers: the only place where Node, `window` or a worker's API may be named. */
export interface DeviceOptions {
  readonly provider?: string;
  /** Threads that one operator may use; the environment's own choice when absent. */
  readonly threads?: number;
}

export type { DataOf, DType };
