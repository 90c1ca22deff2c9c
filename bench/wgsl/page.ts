import { matvec, planeScales } from "../../src/io/packed/index.ts";
import { createRng } from "../../src/linalg/index.ts";
import { randomMatrix } from "../lut/shape.ts";
import { type ProductSizes, productShader, sumShader, type Way } from "./product.ts";

/** What one shader gave. */
export interface ShaderResult {
  readonly way: Way | "nothing";
  /** Milliseconds of a product, of many in one submission; the least of the rounds and their median. */
  readonly least: number;
  readonly median: number;
  /** Relative to float64. */
  readonly error: number;
}

/** What `wgsl.bench.ts` asks of its page. */
export interface ShaderPage {
  measure(
    sizes: ProductSizes,
    rounds: number,
  ): Promise<{ readonly adapter: string; readonly results: readonly ShaderResult[] }>;
}

// Of the page; TypeScript's library has the types of WebGPU and not these.
declare const GPUBufferUsage: Readonly<Record<"COPY_SRC" | "COPY_DST" | "MAP_READ" | "STORAGE", number>>;
declare const GPUMapMode: Readonly<Record<"READ", number>>;

/** Products in one submission. */
const repeats = 10;

const page: ShaderPage = {
  measure: async (sizes, rounds) => {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) throw new Error("there is no WebGPU adapter");
    const device = await adapter.requestDevice({
      requiredLimits: { maxStorageBufferBindingSize: adapter.limits.maxStorageBufferBindingSize },
    });
    const { rows, columns, bits, slices } = sizes;
    const matrix = randomMatrix(rows, columns, bits, 7);
    const rng = createRng(3, "x");
    const x = Float32Array.from({ length: columns }, () => rng.normal());
    const expected = matvec(matrix, x);
    const buffer = (data: Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer> | number, usage = 0): GPUBuffer => {
      const size = typeof data === "number" ? data : data.byteLength;
      const made = device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | usage });
      if (typeof data !== "number") device.queue.writeBuffer(made, 0, data);
      return made;
    };
    const planes = buffer(matrix.planes.slice());
    const alpha = buffer(planeScales(matrix).alpha.slice());
    const input = buffer(x);
    const parts = buffer(4 * rows * slices);
    const y = buffer(4 * rows, GPUBufferUsage.COPY_SRC);
    const pipeline = (code: string): Promise<GPUComputePipeline> =>
      device.createComputePipelineAsync({ layout: "auto", compute: { module: device.createShaderModule({ code }) } });
    const bind = (to: GPUComputePipeline, buffers: readonly GPUBuffer[]): GPUBindGroup =>
      device.createBindGroup({
        layout: to.getBindGroupLayout(0),
        entries: buffers.map((each, binding) => ({ binding, resource: { buffer: each } })),
      });
    const adding = await pipeline(sumShader(sizes));
    const added = bind(adding, [parts, y]);
    const ways: { readonly way: Way; readonly made: GPUComputePipeline; readonly group: GPUBindGroup }[] = [];
    for (const way of ["tables", "signs"] as const) {
      const made = await pipeline(productShader(way, sizes));
      ways.push({ way, made, group: bind(made, [planes, alpha, input, parts]) });
    }
    const submit = async (product: (typeof ways)[number] | undefined, count: number): Promise<number> => {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (let i = 0; i < count; i++) {
        if (product) {
          pass.setPipeline(product.made);
          pass.setBindGroup(0, product.group);
          pass.dispatchWorkgroups(rows / 64, slices);
        }
        pass.setPipeline(adding);
        pass.setBindGroup(0, added);
        pass.dispatchWorkgroups(product ? rows / 64 : 1);
      }
      pass.end();
      const commands = encoder.finish();
      const before = performance.now();
      device.queue.submit([commands]);
      await device.queue.onSubmittedWorkDone();
      return (performance.now() - before) / count;
    };
    const times = [...ways, undefined].map((product) => ({ product, taken: [] as number[], error: 0 }));
    for (const run of times) {
      await submit(run.product, 1);
      if (run.product) run.error = relativeError(await read(), expected);
    }
    for (let round = 0; round < rounds; round++)
      for (const { product, taken } of times) taken.push(await submit(product, repeats));
    const { vendor, architecture, device: name, description } = adapter.info;
    return {
      adapter: [vendor, architecture, name, description].filter((part) => part !== "").join(" "),
      results: times.map(({ product, taken, error }) => ({
        way: product?.way ?? "nothing",
        least: Math.min(...taken),
        median: taken.toSorted((a, b) => a - b)[taken.length >> 1] ?? 0,
        error,
      })),
    };

    async function read(): Promise<Float32Array> {
      const to = device.createBuffer({ size: 4 * rows, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(y, 0, to, 0, 4 * rows);
      device.queue.submit([encoder.finish()]);
      await to.mapAsync(GPUMapMode.READ);
      return new Float32Array(to.getMappedRange().slice(0));
    }
  },
};

function relativeError(found: Float32Array, expected: Float64Array): number {
  let [wrong, all] = [0, 0];
  expected.forEach((value, i) => {
    wrong += (value - (found[i] ?? 0)) ** 2;
    all += value ** 2;
  });
  return Math.sqrt(wrong / all);
}

Object.assign(globalThis, { shaders: page });
