import { float16ToFloat32, float32ToFloat16 } from "../io/convert.ts";
import { type PackedMatrix, packPlanes } from "../io/packed/index.ts";
import type { Rooms } from "../linalg/index.ts";
import type { QuantSite } from "./scheme.ts";

/** Steps and zero points of a matrix in groups of columns, and its integer codes, all in the order of storage. */
export interface UniformCodes {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly columnGroup: number;
  /** [rows, groups], each a float16 exactly. */
  readonly steps: Float64Array;
  readonly zeros: Uint8Array;
  /** [rows, columns]. */
  readonly codes: Uint8Array;
}

/** Room for a matrix's codes, which are gone when the next are made. `groupSize` 0 is one group a row. */
export function createUniform(
  { rows, columns }: QuantSite,
  bits: number,
  groupSize: number,
  rooms: Rooms,
): UniformCodes {
  const columnGroup = groupSize === 0 ? columns : Math.min(groupSize, columns);
  const groups = rows * Math.ceil(columns / columnGroup);
  return {
    rows,
    columns,
    bits,
    columnGroup,
    steps: new Float64Array(groups),
    zeros: new Uint8Array(groups),
    codes: rooms.bytes("codes", rows * columns),
  };
}

/**
 * Fit step and zero point of a group to its least and largest weight, 0 among them: asymmetric min–max. The step is
 * rounded to float16 first, as it is stored.
 */
export function fitGroup(uniform: UniformCodes, group: number, least: number, largest: number): void {
  const levels = 2 ** uniform.bits - 1;
  const [low, high] = [Math.min(0, least), Math.max(0, largest)];
  const step = toFloat16(low === high ? 1 : (high - low) / levels);
  uniform.steps[group] = step;
  uniform.zeros[group] = step === 0 ? 0 : Math.min(levels, Math.max(0, Math.round(-low / step)));
}

/** {@link fitGroup} for every group, at once: least and largest weights [rows, groups]. */
export function fitGroups({ bits, steps, zeros }: UniformCodes, least: Float64Array, largest: Float64Array): void {
  const levels = 2 ** bits - 1;
  const exact = new Float32Array(steps.length);
  for (let group = 0; group < exact.length; group++) {
    const [low, high] = [Math.min(0, least[group] ?? 0), Math.max(0, largest[group] ?? 0)];
    exact[group] = Math.min(65504, low === high ? 1 : (high - low) / levels);
  }
  steps.set(float16ToFloat32(float32ToFloat16(exact)));
  for (let group = 0; group < exact.length; group++) {
    const step = steps[group] ?? 0;
    zeros[group] = step === 0 ? 0 : Math.min(levels, Math.max(0, Math.round(-Math.min(0, least[group] ?? 0) / step)));
  }
}

/** Code of a weight in a group; its value is `step·(code − zero)`. */
export function uniformCode({ steps, zeros, bits }: UniformCodes, group: number, w: number): number {
  const step = steps[group] ?? 0;
  if (step === 0) return zeros[group] ?? 0;
  return Math.min(2 ** bits - 1, Math.max(0, Math.round(w / step) + (zeros[group] ?? 0)));
}

/** The value that a code stands for. */
export function uniformValue({ steps, zeros }: UniformCodes, group: number, code: number): number {
  return (steps[group] ?? 0) * (code - (zeros[group] ?? 0));
}

/** The packed matrix of codes. */
export function packUniform(uniform: UniformCodes, order?: Uint32Array): PackedMatrix {
  const { rows, columns, bits, columnGroup, zeros, codes } = uniform;
  const shape = { rows, columns, bits, rowGroup: 1, columnGroup, coding: "uniform", scaleKind: "float16" } as const;
  return {
    ...shape,
    planes: packPlanes(codes, shape),
    scales: float32ToFloat16(Float32Array.from(uniform.steps)),
    zeros,
    ...(order ? { order } : {}),
  };
}

/** Round to float16; what exceeds it becomes the largest. Steps too small for it become 0, and their weights too. */
export function toFloat16(value: number): number {
  const clamped = Math.min(65504, Math.max(-65504, value));
  return float16ToFloat32(float32ToFloat16(Float32Array.of(clamped)))[0] ?? 0;
}
