import type { InferenceSession, Tensor as OrtTensor } from "onnxruntime-common";
import { assert, nearest, TuneError } from "../errors.ts";
import { type DType, sizeOf, type Tensor } from "../graph/index.ts";
import type { Device, Patch, Piece, ProgramId, ProgramSource, RunRequest } from "./device.ts";
import { identityModel } from "./identity-model.ts";
import { ortError } from "./ort-error.ts";
import { fromOrt, type OrtApi, toOrt } from "./ort-tensor.ts";

interface OrtProgram {
  readonly session: InferenceSession;
  readonly resident: ReadonlySet<string>;
  readonly profiled: boolean;
  /** Inputs that are the same in every run. */
  readonly weights: Readonly<Record<string, OrtTensor>>;
}

/**
 * A {@link Device} over ONNX Runtime's JavaScript API, in this thread. In Node a run blocks the thread it is on.
 *
 * On a CPU a resident buffer is the tensor that a run returned, fed again as it is. Preallocated outputs would save
 * nothing: onnxruntime-node 1.30 writes into them and then copies them into a new array all the same, and
 * onnxruntime-web does not write back to them. On WebGPU a resident buffer is a GPU buffer, which never comes here.
 */
export function createOrtDevice(
  ort: OrtApi,
  options: {
    readonly provider: string;
    readonly threads?: number;
    /** Frees what was handed over to compile a program, once ONNX Runtime has copied it, and replaced buffers. */
    readonly freeBuffers?: (buffers: readonly ArrayBufferView[]) => void;
    /** Whether the runtime opens files itself. */
    readonly disk?: boolean;
  },
): Device {
  return new OrtDevice(ort, options);
}

/** Element types of the tensors that onnxruntime-common lets lie in a GPU buffer. */
const gpuTypes: ReadonlySet<OrtTensor.Type> = new Set<OrtTensor.GpuBufferDataTypes>([
  "float32",
  "float16",
  "int32",
  "int64",
  "uint32",
  "uint8",
  "bool",
]);

class OrtDevice implements Device {
  readonly provider: string;
  readonly #ort: OrtApi;
  readonly #threads: number | undefined;
  readonly #freeBuffers: (buffers: readonly ArrayBufferView[]) => void;
  readonly #disk: boolean;
  readonly #programs = new Map<ProgramId, OrtProgram>();
  readonly #buffers = new Map<string, OrtTensor>();
  /** How many buffers lie in the same memory, where it is more than one. */
  readonly #sharers = new Map<ArrayBufferLike, number>();
  /** Buffers in memory that is the caller's. */
  readonly #lent = new WeakSet<OrtTensor>();
  /** On WebGPU: the program that made a buffer, by the buffer's name. */
  readonly #makers = new Map<string, OrtProgram>();
  /** Programs that are released as soon as no buffer of theirs is left. */
  readonly #leaving = new Set<OrtProgram>();
  /** Identity programs that move tensors to and from the GPU. */
  readonly #movers = new Map<string, InferenceSession>();
  #made = 0;
  #closed = false;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(
    ort: OrtApi,
    { provider, threads, freeBuffers = () => undefined, disk = false }: Parameters<typeof createOrtDevice>[1],
  ) {
    this.#ort = ort;
    this.provider = provider;
    this.#threads = threads;
    this.#freeBuffers = freeBuffers;
    this.#disk = disk;
  }

  compile(source: ProgramSource): Promise<ProgramId> {
    return this.#inTurn(async () => {
      const resident = new Set(source.residentOutputs);
      const session = await this.#createSession(source, this.#onGpu ? [...resident] : []);
      if (source.externalData) this.#freeBuffers(source.externalData.map(({ data }) => data));
      this.#made += 1;
      const weights = Object.entries(source.weights ?? {}).map(([name, tensor]) => [name, toOrt(this.#ort, tensor)]);
      this.#programs.set(this.#made, {
        session,
        resident,
        profiled: source.tuning?.profile !== undefined,
        weights: Object.fromEntries(weights),
      });
      return this.#made;
    });
  }

  run({
    program,
    feeds,
    reads = {},
    writes = {},
    patches = {},
  }: RunRequest): Promise<Readonly<Record<string, Tensor>>> {
    return this.#inTurn(async () => {
      const maker = this.#programOf(program);
      const { session, resident, weights } = maker;
      const inputs: Record<string, OrtTensor> = { ...weights };
      for (const [name, tensor] of Object.entries(feeds)) inputs[name] = toOrt(this.#ort, tensor);
      for (const [name, buffer] of Object.entries(reads))
        inputs[name] = typeof buffer === "string" ? this.#bufferOf(buffer) : this.#joined(buffer);
      for (const name of Object.keys({ ...writes, ...patches }))
        assert(resident.has(name), `output ${name} is not resident`);
      const outputs = await this.#runSession(session, inputs);
      const returned: Record<string, Tensor> = {};
      for (const [name, value] of Object.entries(outputs)) {
        const written = writes[name];
        if (patches[name] !== undefined) this.#patch(patches[name], value);
        if (typeof written === "string") this.#replace(written, value, maker);
        else if (written !== undefined) this.#cut(written, value);
        else if (resident.has(name)) this.#free(value);
        else returned[name] = fromOrt(value);
      }
      return returned;
    });
  }

  upload(name: string, tensor: Tensor, { lent = false }: { readonly lent?: boolean } = {}): Promise<void> {
    return this.#inTurn(async () => {
      const here = lent && !this.#onGpu;
      const value = here ? toOrt(this.#ort, tensor) : await this.#place(tensor);
      if (here) this.#lent.add(value);
      this.#replace(name, value);
    });
  }

  download(name: string): Promise<Tensor> {
    return this.#inTurn(async () => {
      const buffer = this.#bufferOf(name);
      if (buffer.location !== "cpu") return fromOrt(await this.#move(buffer, "cpu"));
      const { dtype, shape, data } = fromOrt(buffer);
      return { dtype, shape, data: data.slice() };
    });
  }

  discard(names: readonly string[]): Promise<void> {
    return this.#inTurn(async () => {
      for (const name of names) {
        this.#drop(name);
        this.#buffers.delete(name);
      }
      await this.#leave();
    });
  }

  release(program: ProgramId): Promise<void> {
    return this.#inTurn(async () => {
      const found = this.#programs.get(program);
      if (found === undefined) return;
      this.#programs.delete(program);
      this.#leaving.add(found);
      await this.#leave();
    });
  }

  /** A GPU buffer goes back to the session that made it: onnxruntime-node 1.30 may end the process when that is gone. */
  async #leave(): Promise<void> {
    const needed = new Set(this.#makers.values());
    for (const program of [...this.#leaving].filter((candidate) => !needed.has(candidate))) {
      this.#leaving.delete(program);
      await this.#end(program);
    }
  }

  async #end({ session, profiled, weights }: OrtProgram): Promise<void> {
    if (profiled) session.endProfiling();
    await session.release();
    for (const value of Object.values(weights)) this.#free(value);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    const ended = this.#inTurn(async () => {
      for (const name of this.#buffers.keys()) this.#drop(name);
      this.#buffers.clear();
      await this.#leave();
      for (const program of this.#programs.values()) await this.#end(program);
      this.#programs.clear();
      for (const session of this.#movers.values()) await session.release();
      this.#movers.clear();
    });
    this.#closed = true;
    await ended;
  }

  get patches(): boolean {
    return !this.#onGpu;
  }

  /** Inputs are read where they are on a CPU; onnxruntime-web copies them into its own memory. */
  get inPlace(): boolean {
    return this.#disk && this.provider === "cpu";
  }

  get #onGpu(): boolean {
    return this.provider === "webgpu";
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new TuneError("device-closed", "the device has been closed."));
    const turn = this.#tail.then(work);
    this.#tail = turn.catch(() => undefined);
    return turn;
  }

  async #createSession(source: ProgramSource, gpuOutputs: readonly string[]): Promise<InferenceSession> {
    const { model, externalData = [], folder, tuning = {} } = source;
    const settings = {
      ...(tuning.prepack === false && { disable_prepacking: "1" }),
      ...(tuning.spinning === false && { intra_op: { allow_spinning: "0" } }),
      ...(folder !== undefined && { model_external_initializers_file_folder_path: folder }),
    };
    try {
      return await this.#ort.InferenceSession.create(model, {
        executionProviders: [this.provider],
        ...(this.#threads !== undefined && { intraOpNumThreads: this.#threads }),
        // A training step is one long chain: threads inside an operator help, operators side by side do not.
        executionMode: "sequential",
        graphOptimizationLevel: tuning.optimization ?? "all",
        enableCpuMemArena: tuning.arena ?? true,
        // A pattern is a second copy of all temporaries, kept for every shape that was seen, and saves no time.
        enableMemPattern: false,
        logSeverityLevel: 4, // what goes wrong is thrown; stderr is not ours to write to
        extra: {
          session: settings,
          ...(tuning.foldConstants === false && {
            optimization: { disable_specified_optimizers: "ConstantFolding" },
          }),
        },
        ...(tuning.profile !== undefined && { enableProfiling: true, profileFilePrefix: tuning.profile }),
        ...(externalData.length > 0 && { externalData }),
        ...(gpuOutputs.length > 0 && {
          preferredOutputLocation: Object.fromEntries(gpuOutputs.map((name) => [name, "gpu-buffer"])),
        }),
      });
    } catch (error) {
      throw ortError("program-rejected", error);
    }
  }

  async #runSession(
    session: InferenceSession,
    inputs: Readonly<Record<string, OrtTensor>>,
  ): Promise<Readonly<Record<string, OrtTensor>>> {
    try {
      return await session.run(inputs);
    } catch (error) {
      throw ortError("run-failed", error);
    }
  }

  /** A resident copy of a tensor of the caller's. What a GPU buffer cannot hold stays here and is sent with each run. */
  async #place(tensor: Tensor): Promise<OrtTensor> {
    const value = toOrt(this.#ort, tensor);
    if (this.#onGpu && gpuTypes.has(value.type)) return this.#move(value, "gpu-buffer");
    return toOrt(this.#ort, { ...tensor, data: tensor.data.slice() });
  }

  /** A copy of a tensor on the other side. onnxruntime-node 1.30 ends the process in `getData()`; a run does not. */
  async #move(value: OrtTensor, to: "cpu" | "gpu-buffer"): Promise<OrtTensor> {
    const key = `${value.type} to ${to}`;
    let session = this.#movers.get(key);
    if (session === undefined) {
      const model = identityModel(value.type as DType); // `toOrt` made it from one of ours
      session = await this.#createSession({ model }, to === "cpu" ? [] : ["y"]);
      this.#movers.set(key, session);
    }
    const { y } = await this.#runSession(session, { x: value });
    assert(y !== undefined, "Identity has an output");
    return y;
  }

  #replace(name: string, value: OrtTensor, maker?: OrtProgram): void {
    this.#drop(name);
    this.#buffers.set(name, value);
    if (this.#onGpu && maker) this.#makers.set(name, maker);
  }

  /** Buffers that are views of one output, which lies in memory until the last of them is dropped. */
  #cut(pieces: readonly Piece[], value: OrtTensor): void {
    assert(this.patches, `outputs of ${this.provider} cannot be cut`);
    const { dtype, data } = fromOrt(value);
    let start = 0;
    for (const { buffer, shape } of pieces) {
      const end = start + sizeOf(shape);
      this.#replace(buffer, toOrt(this.#ort, { dtype, shape, data: data.subarray(start, end) }));
      start = end;
    }
    assert(start === data.length, `${pieces.map(({ buffer }) => buffer).join(", ")} are not all of an output`);
    this.#sharers.set(data.buffer, pieces.length);
  }

  /** Buffers end to end: a view where they lie so, or else a copy. */
  #joined(names: readonly string[]): OrtTensor {
    assert(this.patches, `buffers of ${this.provider} cannot be joined`);
    const parts = names.map((name) => {
      const { data } = fromOrt(this.#bufferOf(name));
      assert(data instanceof Float32Array, "what is joined is float32");
      return data;
    });
    const [first] = parts;
    assert(first !== undefined, "nothing to join");
    let end = first.byteOffset;
    const adjoin = parts.every((part) => {
      const follows = part.buffer === first.buffer && part.byteOffset === end;
      end += part.byteLength;
      return follows;
    });
    const size = parts.reduce((sum, { length }) => sum + length, 0);
    const data = adjoin ? new Float32Array(first.buffer, first.byteOffset, size) : new Float32Array(size);
    let start = 0;
    for (const part of adjoin ? [] : parts) {
      data.set(part, start);
      start += part.length;
    }
    return toOrt(this.#ort, { dtype: "float32", shape: [size], data });
  }

  #drop(name: string): void {
    this.#makers.delete(name);
    const buffer = this.#buffers.get(name);
    if (buffer) this.#free(buffer);
  }

  #free(value: OrtTensor): void {
    if (value.location === "cpu" && !this.#lent.has(value)) {
      const { data } = fromOrt(value);
      const others = (this.#sharers.get(data.buffer) ?? 1) - 1;
      if (others > 0) this.#sharers.set(data.buffer, others);
      else {
        this.#sharers.delete(data.buffer);
        this.#freeBuffers([data]);
      }
    }
    value.dispose();
  }

  #patch(patches: readonly Patch[], value: OrtTensor): void {
    assert(this.patches, `buffers of ${this.provider} cannot be written in parts`);
    const { data: parts } = fromOrt(value);
    let start = 0;
    for (const { buffer, places } of patches) {
      const [{ shape, data: whole }, { data: rows }] = [this.#bufferOf(buffer), this.#bufferOf(places)].map(
        fromOrt,
      ) as [Tensor, Tensor];
      assert(whole instanceof Float32Array && parts instanceof Float32Array, "weights are float32");
      const [height = 0, width = 0] = shape;
      const count = rows.length;
      for (let i = 0; i < count; i++) {
        const to = Number(rows[i]) * width;
        assert(to >= 0 && to < height * width, `${buffer} has no row ${rows[i]}`);
        for (let j = 0; j < width; j++) whole[to + j] = parts[start + j * count + i] ?? Number.NaN;
      }
      start += width * count;
    }
    assert(
      start === parts.length,
      `the parts of ${patches.map(({ buffer }) => buffer).join(", ")} are not all of an output`,
    );
  }

  #bufferOf(name: string): OrtTensor {
    const buffer = this.#buffers.get(name);
    if (buffer !== undefined) return buffer;
    const near = nearest(name, this.#buffers.keys());
    throw new TuneError("unknown-buffer", `the device holds no buffer "${name}".`, {
      fix: near.length > 0 ? `did you mean ${near.join(" or ")}?` : "upload it first",
    });
  }

  #programOf(id: ProgramId): OrtProgram {
    const program = this.#programs.get(id);
    if (program === undefined) throw new TuneError("unknown-program", `the device holds no program ${id}.`);
    return program;
  }
}
