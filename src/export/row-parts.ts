import { type LazyTensor, sizeOf } from "../graph/index.ts";
import { partToFloat32, toFloat32 } from "../io/convert.ts";

/**
 * Rows of a matrix, or elements of a vector, in float32: those named, in their order, or all; about `together` elements at a time,
 * whole rows. A part is gone when the next is asked for.
 */
export async function* rowParts(
  source: LazyTensor,
  rows: readonly number[] | undefined,
  together: number,
): AsyncGenerator<Float32Array> {
  const [count = 1] = source.shape;
  const width = sizeOf(source.shape) / count;
  const { readPart } = source;
  const step = Math.max(1, Math.floor(together / width));
  const total = rows?.length ?? count;
  const [read, taken] = [new ArrayBuffer(4 * spanned(step) * width), new Float32Array(rows ? step * width : 0)];
  const whole = readPart ? undefined : (await toFloat32(source)).data;
  const between = async (first: number, last: number): Promise<Float32Array> =>
    whole || !readPart
      ? (whole as Float32Array).subarray(first * width, last * width) // one or the other
      : partToFloat32({ ...source, readPart }, first * width, last * width, read);
  for (let start = 0; start < total; start += step) {
    const end = Math.min(total, start + step);
    const wanted = rows?.slice(start, end);
    if (wanted === undefined || wanted.every((row, i) => row === start + i)) {
      yield await between(start, end);
      continue;
    }
    // Rows that are near each other are read at once, the others run by run.
    for (let i = 0; i < wanted.length; ) {
      let [low, high, next] = [wanted[i] ?? 0, wanted[i] ?? 0, i + 1];
      for (; next < wanted.length; next++) {
        const row = wanted[next] ?? 0;
        if (Math.max(high, row) - Math.min(low, row) >= spanned(step)) break;
        [low, high] = [Math.min(low, row), Math.max(high, row)];
      }
      const span = await between(low, high + 1);
      for (; i < next; i++) {
        const at = ((wanted[i] ?? 0) - low) * width;
        taken.set(span.subarray(at, at + width), i * width);
      }
    }
    yield taken.subarray(0, wanted.length * width);
  }
}

/** How many rows are read at once where `step` of them are wanted. */
function spanned(step: number): number {
  return 2 * step;
}
