import { TuneError } from "../errors.ts";
import {
  bytesOf,
  bytesPerElement,
  type Graph,
  type InputValue,
  resolveDim,
  showShape,
  sizeOf,
  type Tensor,
  verify,
  type WeightValue,
} from "../graph/index.ts";
import { type ExternalRange, weightBytes, writeOnnx } from "../io/onnx/write.ts";
import type { Device, RunRequest, SessionTuning } from "./device.ts";

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

/** Weights below this stay in the model file; larger ones are handed over beside it, without a copy. */
const inlineBytes = 1024;

/** Compile a graph: check that it is sound, read its weights, write it as ONNX and hand both to the device. */
export async function compileGraph(
  device: Device,
  graph: Graph,
  options: {
    readonly residentOutputs?: readonly string[];
    readonly tuning?: SessionTuning;
    /** The operator set that the graph is written in; 21 unless given. */
    readonly opset?: number;
  } = {},
): Promise<Program> {
  verify(graph);
  const places = new Map<string, Tensor | ExternalRange>();
  const externalData: { path: string; data: Uint8Array }[] = [];
  for (const weight of graph.weights) {
    const tensor = await weight.source.read();
    if (weightBytes(weight) <= inlineBytes) {
      places.set(weight.name, tensor);
      continue;
    }
    const path = `weight-${externalData.length}`;
    const data = ownBytes(tensor);
    externalData.push({ path, data });
    places.set(weight.name, { location: path, offset: 0, length: data.byteLength });
  }
  const { opset, ...prepared } = options;
  const place = ({ name }: WeightValue): Tensor | ExternalRange => places.get(name) as Tensor | ExternalRange; // one a weight, above
  const model = writeOnnx(graph, { place, ...(opset === undefined ? {} : { opset }) });
  const program = await device.compile({ model, externalData, ...prepared });
  return {
    graph,
    run: (request) => {
      checkFeeds(graph, request);
      return device.run({ ...request, program });
    },
    release: () => device.release(program),
  };
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
  throw new TuneError("bad-feed", problems.join("\n"), {
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
