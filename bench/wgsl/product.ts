/**
 * Products with packed planes as WebGPU shaders, in the layout that the WebAssembly kernels read (src/io/packed/planes.ts):
 * one by look-up in tables of workgroup memory, as the kernels do it, and one that adds or subtracts α·x for every bit.
 * A workgroup is a tile of 64 rows and a slice of the columns; the slices' sums are added up by a second shader.
 */

/** How a shader turns planes into sums. */
export type Way = "tables" | "signs";

/** Sizes that a shader is made for. */
export interface ProductSizes {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  /** Slices that the columns are cut into, a workgroup each. */
  readonly slices: number;
}

/** Columns whose tables, or products with α, are in workgroup memory at a time. */
const block = 128;

/** y's parts [slices, rows] of planes (as words), alpha [bits, columns] and x [columns]. Sizes divide what they must. */
export function productShader(way: Way, { rows, columns, bits, slices }: ProductSizes): string {
  const [tiles, tables, perSlice] = [rows / 64, columns / 4, columns / slices];
  const entries = way === "tables" ? 16 : 4;
  const fill =
    way === "tables"
      ? `for (var e = lane; e < ${bits * 32 * 16}u; e += 64u) {
          let c = column + ((e / 16u) % 32u) * 4u;
          let a = (e / 512u) * ${columns}u + c;
          var sum = 0.0;
          for (var g = 0u; g < 4u; g++) {
            let v = alpha[a + g] * x[c + g];
            sum += select(-v, v, ((e >> g) & 1u) == 1u);
          }
          near[e] = sum;
        }`
      : `for (var e = lane; e < ${bits * block}u; e += 64u) {
          let c = column + e % ${block}u;
          near[e] = alpha[(e / ${block}u) * ${columns}u + c] * x[c];
        }`;
  const add =
    way === "tables"
      ? "sum += near[(p * 32u + t) * 16u + nibble];"
      : `let v = (p * 32u + t) * 4u;
         sum += select(-near[v], near[v], (nibble & 1u) != 0u) + select(-near[v + 1u], near[v + 1u], (nibble & 2u) != 0u)
              + select(-near[v + 2u], near[v + 2u], (nibble & 4u) != 0u) + select(-near[v + 3u], near[v + 3u], (nibble & 8u) != 0u);`;
  return `
    @group(0) @binding(0) var<storage, read> planes: array<u32>;
    @group(0) @binding(1) var<storage, read> alpha: array<f32>;
    @group(0) @binding(2) var<storage, read> x: array<f32>;
    @group(0) @binding(3) var<storage, read_write> parts: array<f32>;
    var<workgroup> near: array<f32, ${bits * 32 * entries}>;

    @compute @workgroup_size(64)
    fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
      let row = lane & 31u;
      let byte = select(2u * (row & 15u), 2u * ((row & 15u) - 8u) + 1u, (row & 15u) >= 8u);
      let word = (lane >> 5u) * 4u + (byte >> 2u);
      let shift = (byte & 3u) * 8u + (row >> 4u) * 4u;
      var sum = 0.0;
      for (var column = group.y * ${perSlice}u; column < (group.y + 1u) * ${perSlice}u; column += ${block}u) {
        ${fill}
        workgroupBarrier();
        for (var p = 0u; p < ${bits}u; p++) {
          let at = ((p * ${tiles}u + group.x) * ${tables}u + column / 4u) * 8u + word;
          for (var t = 0u; t < 32u; t++) {
            let nibble = (planes[at + t * 8u] >> shift) & 15u;
            ${add}
          }
        }
        workgroupBarrier();
      }
      parts[group.y * ${rows}u + group.x * 64u + lane] = sum;
    }`;
}

/** y [rows] of parts [slices, rows]. */
export function sumShader({ rows, slices }: ProductSizes): string {
  return `
    @group(0) @binding(0) var<storage, read> parts: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;

    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) at: vec3u) {
      var sum = 0.0;
      for (var s = 0u; s < ${slices}u; s++) { sum += parts[s * ${rows}u + at.x]; }
      y[at.x] = sum;
    }`;
}
