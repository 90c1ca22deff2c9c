import { TuneError } from "../errors.ts";
import {
  bytesOf,
  bytesPerElement,
  type DType,
  type FileRange,
  type Graph,
  type InputValue,
  resolveDim,
  showShape,
  sizeOf,
  type Tensor,
  verify,
  type WeightValue,
} from "../graph/index.ts";
import { type OnnxOptions, weightBytes, writeOnnx } from "../io/onnx/write.ts";
import type { Device, ProgramSource, RunRequest, SessionTuning } from "./device.ts";
import { canBeInput } from "./ort-tensor.ts";

/** A graph compiled on a device. */
export interface Program {
  readonly graph: Graph;
  /**
   * Run it.
   * @throws {TuneError} `bad-feed` listing every input that is missing, unknown or does not fit its declared type, and
   * what the device throws.
   */
  run(request: Omit<RunRequest, "program">): Promise<Readonly<Record<string, Tensor>>>;
  /** Free it. */
  release(): Promise<void>;
}

/** Weights below this stay in the model file; larger ones are handed over beside it. */
const inlineBytes = 1024;

/**
 * Up to how many bytes of weights are laid out for the CPU's kernels unless a program says otherwise. What is laid out is a
 * copy, one for each direction that a weight is multiplied in; products with hundreds of rows are no faster for it.
 */
export const laidOutBytes = 1e9;

/** Whether ONNX Runtime lays out the weights of a graph, when it does so up to a number of bytes of them. */
export function laysOut({ weights }: Graph, upTo: number): boolean {
  return weights.reduce((sum, weight) => sum + weightBytes(weight), 0) <= upTo;
}

/**
 * Compile a graph: check that it is sound, write it as ONNX, and hand it to the device with its weights. Where the device
 * can read a weight in place, it is in memory once: mapped from its file, or in the buffer that it was read into.
 * @throws {TuneError} what reading the weights and compiling throw.
 */
export async function compileGraph(
  device: Device,
  graph: Graph,
  options: {
    readonly residentOutputs?: readonly string[];
    readonly tuning?: Omit<SessionTuning, "prepack" | "foldConstants">;
    /** Up to how many bytes of weights are laid out for the CPU's kernels; {@link laidOutBytes} unless given. */
    readonly laidOutBytes?: number;
    /** The operator set that the graph is written in; 21 unless given. */
    readonly opset?: number;
  } = {},
): Promise<Program> {
  verify(graph);
  const { opset, tuning, residentOutputs = [] } = options;
  const prepack = laysOut(graph, options.laidOutBytes ?? laidOutBytes);
  // Folded, what is held in few bits would be decoded for good.
  const fixed = { prepack, foldConstants: graph.weights.every(({ dtype }) => !isHeldSmall(dtype)) };
  const { places, ...weights } = await placeWeights(graph, { inPlace: device.inPlace === true, prepack });
  const place = ({ name }: WeightValue): Place => places.get(name) as Place; // one a weight
  const model = writeOnnx(graph, { place, ...(opset === undefined ? {} : { opset }) });
  const program = await device.compile({ model, ...weights, residentOutputs, tuning: { ...tuning, ...fixed } });
  return {
    graph,
    run: (request) => {
      checkFeeds(graph, request);
      return device.run({ ...request, program });
    },
    release: () => device.release(program),
  };
}

/** Whether elements are fewer bits than those that are computed with. */
function isHeldSmall(dtype: DType): boolean {
  return bytesPerElement(dtype) < 4 && dtype !== "bool";
}

type Place = ReturnType<OnnxOptions["place"]>;

/** Where each weight of a graph goes, and what the device is handed with it. */
async function placeWeights(
  graph: Graph,
  how: { readonly inPlace: boolean; readonly prepack: boolean },
): Promise<
  Required<Pick<ProgramSource, "externalData" | "weights">> &
    Pick<ProgramSource, "folder"> & { places: ReadonlyMap<string, Place> }
> {
  const places = new Map<string, Place>();
  const externalData: { path: string; data: Uint8Array }[] = [];
  const weights: Record<string, Tensor> = {};
  let folder: string | undefined;
  for (const [weight, way] of waysOf(graph.weights, how)) {
    const { name, source } = weight;
    if (way === "map" && source.file) {
      await source.file.check();
      const { parent, location } = splitPath(source.file.path);
      folder = parent;
      places.set(name, { location, offset: source.file.offset, length: source.file.length });
      continue;
    }
    const tensor = await source.read();
    if (way === "inline") places.set(name, tensor);
    else if (way === "feed") {
      weights[name] = tensor;
      places.set(name, "input");
    } else {
      const path = `weight-${externalData.length}`;
      const data = ownBytes(tensor);
      externalData.push({ path, data });
      places.set(name, { location: path, offset: 0, length: data.byteLength });
    }
  }
  return { places, externalData, weights, ...(folder === undefined ? {} : { folder }) };
}

/** In the model file; mapped from the disk; fed to every run from where it was read to; copied by ONNX Runtime. */
type Way = "inline" | "map" | "feed" | "copy";

/**
 * How each weight gets to the device. ONNX Runtime 1.30 takes external data of a program from one folder or from memory, not
 * from both: what is less of it goes another way.
 */
function waysOf(
  all: readonly WeightValue[],
  { inPlace, prepack }: { readonly inPlace: boolean; readonly prepack: boolean },
): ReadonlyMap<WeightValue, Way> {
  const ways = new Map<WeightValue, Way>();
  let folder: string | undefined;
  for (const weight of all) {
    const file = inPlace ? mappable(weight) : undefined;
    const parent = file && splitPath(file.path).parent;
    folder ??= parent;
    if (weightBytes(weight) <= inlineBytes) ways.set(weight, "inline");
    else if (file && parent === folder) ways.set(weight, "map");
    else ways.set(weight, inPlace && !prepack && canBeInput(weight.dtype) ? "feed" : "copy");
  }
  const bytesOf = (way: Way): number =>
    all.reduce((sum, weight) => sum + (ways.get(weight) === way ? weightBytes(weight) : 0), 0);
  if (bytesOf("map") === 0 || bytesOf("copy") === 0) return ways;
  const turn = (from: Way, to: (weight: WeightValue) => Way): void => {
    for (const weight of all) if (ways.get(weight) === from) ways.set(weight, to(weight));
  };
  const fed = (weight: WeightValue): boolean => canBeInput(weight.dtype);
  if (bytesOf("copy") <= bytesOf("map")) turn("copy", (weight) => (fed(weight) ? "feed" : "copy"));
  if (bytesOf("copy") > 0) turn("map", (weight) => (fed(weight) && !prepack ? "feed" : "copy"));
  return ways;
}

function splitPath(path: string): { readonly parent: string; readonly location: string } {
  const [, parent = "", location = path] = /^(.*)[\\/](.*)$/.exec(path) ?? [];
  return { parent: parent === "" ? "/" : parent, location };
}

/** Whether a device that can ({@link Device.inPlace}) reads a weight where it is, in a program whose weights are laid out or not. */
export function readInPlace(weight: WeightValue, prepack: boolean): boolean {
  return mappable(weight) !== undefined || (!prepack && canBeInput(weight.dtype));
}

/** Where a weight's own bytes are on the disk. Kernels read whole elements, so they must start where one can. */
function mappable({ dtype, source }: WeightValue): FileRange | undefined {
  const { file } = source;
  return file && source.dtype === dtype && file.offset % bytesPerElement(dtype) === 0 ? file : undefined;
}

/** The bytes of a tensor in a buffer of their own: the device may move the whole buffer to another thread. */
function ownBytes({ data }: Tensor): Uint8Array {
  const bytes = bytesOf(data);
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : bytes.slice();
}

function checkFeeds(graph: Graph, { feeds, reads = {} }: Omit<RunRequest, "program">): void {
  const problems: string[] = [];
  const symbols: Record<string, number> = {};
  const known = new Set<string>();
  for (const value of [...graph.inputs, ...graph.parameters]) {
    known.add(value.name);
    const fed = feeds[value.name];
    if (fed) problems.push(...misfits(value.name, value, fed, symbols));
    else if (!Object.hasOwn(reads, value.name)) problems.push(`${value.name} is missing`);
  }
  for (const name of [...Object.keys(feeds), ...Object.keys(reads)]) {
    if (!known.has(name)) problems.push(`there is no input ${name}`);
  }
  if (problems.length === 0) return;
  throw new TuneError("bad-feed", problems, {
    at: `program ${graph.name}`,
    fix: `it takes ${[...known].slice(0, 12).join(", ")}${known.size > 12 ? ", …" : ""}`,
  });
}

function misfits(
  name: string,
  { dtype, shape }: Pick<InputValue, "dtype" | "shape">,
  fed: Tensor,
  symbols: Record<string, number>,
): string[] {
  const is = `${fed.dtype}${showShape(fed.shape)}`;
  if (fed.dtype !== dtype || fed.shape.length !== shape.length)
    return [`${name} is ${is}, not ${dtype}${showShape(shape)}`];
  if (fed.data.byteLength !== sizeOf(fed.shape) * bytesPerElement(dtype))
    return [`${name} holds ${fed.data.length} values, not ${is}`];
  return shape.flatMap((dim, axis) => {
    const size = fed.shape[axis] ?? 0;
    const [, factor = "1", symbol] = /^(?:(\d+)\*)?([A-Za-z_]\w*)$/.exec(String(dim)) ?? [];
    if (symbol !== undefined && symbols[symbol] === undefined) {
      if (size % Number(factor) !== 0) return [`${name} has ${size} along axis ${axis}, no multiple of ${factor}`];
      symbols[symbol] = size / Number(factor);
    }
    const expected = resolveDim(dim, symbols);
    return expected === undefined || expected === size
      ? []
      : [`${name} has ${size} along axis ${axis}, but ${dim} is ${expected} here`];
  });
}
