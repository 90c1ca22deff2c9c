import type { TuneError } from "../errors.ts";
import type { Tensor } from "../graph/index.ts";

/** A compiled program on a device. */
export type ProgramId = number;

/** What a device needs to make a program. */
export interface ProgramSource {
  /** A serialised ONNX model (its large initializers external, named by offset into `externalData`). */
  readonly model: Uint8Array;
  /**
   * External data files by the location that the model names. They are handed over: a device in a worker moves
   * their bytes there, so the caller must not read them afterwards.
   */
  readonly externalData?: readonly { readonly path: string; readonly data: Uint8Array }[];
  /**
   * The folder on the disk in which ONNX Runtime finds external data that is not handed over, and maps it into memory;
   * where {@link Device.inPlace} is true.
   */
  readonly folder?: string;
  /**
   * Weights that the model takes as inputs, by name: they are handed over likewise, stay where they are, and are fed to every
   * run; where {@link Device.inPlace} is true.
   */
  readonly weights?: Readonly<Record<string, Tensor>>;
  /** Outputs that stay on the device as buffers; every other output is read back. */
  readonly residentOutputs?: readonly string[];
  readonly tuning?: SessionTuning;
}

/** How ONNX Runtime prepares and runs one program. The defaults suit training; measure before changing them. */
export interface SessionTuning {
  /** How far graphs are rewritten; `all` when absent: fusions cost little once, and every step profits. */
  readonly optimization?: "disabled" | "basic" | "extended" | "layout" | "all";
  /**
   * Whether constant matrices are laid out for the CPU's kernels when the program is compiled; true when absent.
   * About a quarter faster on products with tens of rows, and nothing on one row or on many.
   */
  readonly prepack?: boolean;
  /** Whether what depends on weights alone is computed when the program is compiled; true when absent. */
  readonly foldConstants?: boolean;
  /**
   * Whether the CPU keeps the memory of temporaries for the next run; true when absent. Without it a step that is
   * all large temporaries needs a third less memory and more time.
   */
  readonly arena?: boolean;
  /**
   * Whether threads that wait for work keep asking for it; true when absent. Where operators take milliseconds, asking wins
   * nothing and takes a processor from others.
   */
  readonly spinning?: boolean;
  /** Write ONNX Runtime's profile (JSON, one event an operator) to `<profile>_<time>.json` when the program is released. */
  readonly profile?: string;
}

/**
 * What a run reads and writes. Buffers are named tensors that live on the device between runs (parameters,
 * optimiser state, KV cache); small things (token ids, the learning rate, the loss) travel with the call.
 */
export interface RunRequest {
  readonly program: ProgramId;
  /** Input name -> tensor sent with this call (copied, so that the caller may change it afterwards). */
  readonly feeds: Readonly<Record<string, Tensor>>;
  /**
   * Input name -> the resident buffer it reads, or, where {@link Device.patches} is true, the buffers that it reads end to
   * end as one vector. That takes no copy where they are one output cut into these.
   */
  readonly reads?: Reads;
  /**
   * Resident output -> the buffer it replaces once the run has ended (never before), or, where {@link Device.patches} is
   * true, the buffers that it is cut into. Others are dropped.
   */
  readonly writes?: Writes;
  /** Resident output -> the parts of buffers that it replaces, likewise; where {@link Device.patches} is true. */
  readonly patches?: Readonly<Record<string, readonly Patch[]>>;
}

/** Inputs and the buffers that they read: one, or several end to end. */
export type Reads = Readonly<Record<string, string | readonly string[]>>;

/** Outputs and the buffers that they replace: one, or several of which the output holds the elements end to end. */
export type Writes = Readonly<Record<string, string | readonly Piece[]>>;

/** A buffer that is a piece of an output. */
export interface Piece {
  readonly buffer: string;
  readonly shape: readonly number[];
}

/**
 * Some rows of a buffer [rows, width]. The output holds them as columns, [width, count], each patch's after the one
 * before: a matrix that is kept turned has its columns in one piece each, which is many times faster to write.
 */
export interface Patch {
  readonly buffer: string;
  /** The buffer, int64 [count], that says which rows. */
  readonly places: string;
}

/**
 * Where programs run: one interface for ONNX Runtime in this thread, in a worker, in Node or in a page.
 * Calls are carried out one at a time, in the order they are made. A run that fails leaves every resident buffer as
 * it was. Every method rejects with {@link TuneError} `device-closed` after `close`, and `worker-stopped` once the
 * worker is gone.
 */
export interface Device {
  /** `cpu`, `webgpu`, `cuda` or `wasm`: the execution provider that programs run on. */
  readonly provider: string;
  /**
   * Whether runs can replace parts of a buffer, cut an output into several and join them again: where buffers lie in
   * memory that this side writes. No when absent.
   */
  readonly patches?: boolean;
  /**
   * Whether programs read weights where they are: in a file on the disk, or in memory that was handed over. Elsewhere the
   * runtime has a copy of its own. No when absent.
   */
  readonly inPlace?: boolean;
  /**
   * Compile a model.
   * @throws {TuneError} `program-rejected` with ONNX Runtime's reason, or `out-of-memory`.
   */
  compile(source: ProgramSource): Promise<ProgramId>;
  /**
   * Run a program and return the outputs that are not resident.
   * @throws {TuneError} `run-failed` with ONNX Runtime's reason, `out-of-memory`, `unknown-program` or `unknown-buffer`.
   */
  run(request: RunRequest): Promise<Readonly<Record<string, Tensor>>>;
  /**
   * Place a copy of a tensor in a named resident buffer, replacing what was there. What is `lent` is left as it is by the
   * caller until the buffer is discarded or replaced, so that a device that reads this side's memory makes no copy.
   * @throws {TuneError} `dtype-unsupported` for bfloat16, which ONNX Runtime's JavaScript API does not carry.
   */
  upload(name: string, tensor: Tensor, how?: { readonly lent?: boolean }): Promise<void>;
  /** Copy a resident buffer back. @throws {TuneError} `unknown-buffer`. */
  download(name: string): Promise<Tensor>;
  /** Free resident buffers; nothing happens for those that are not there. */
  discard(names: readonly string[]): Promise<void>;
  /** Free a program; nothing happens when it is not there. */
  release(program: ProgramId): Promise<void>;
  /** Free everything, and end the worker where there is one. */
  close(): Promise<void>;
}

/** What a person chooses when a device is opened. */
export interface DeviceOptions {
  /** An execution provider, or `auto` for the fastest that starts; the platform's safest when absent. */
  readonly provider?: string;
  /** Threads that one operator may use; when absent as many as there are cores for this process, where the environment says so. */
  readonly threads?: number;
  /** Whether programs run in a worker, so that this thread stays responsive; true when absent. */
  readonly worker?: boolean;
}
