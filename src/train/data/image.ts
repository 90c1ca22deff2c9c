import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";
import { upright } from "./exif.ts";
import { decodeJpeg } from "./jpeg.ts";
import type { Pixels } from "./pixels.ts";
import { decodePng } from "./png.ts";

/** Whether a file's name is an image's that can be read. */
export function isImage(name: string): boolean {
  return /\.(png|jpe?g)$/i.test(name);
}

/**
 * Read a PNG or JPEG file as a square of `size` pixels, each 0xRRGGBB. What its first bytes say decides, not its name.
 * @throws {TuneError} `bad-image` for a file that is neither, does not decode, or is too large; what the storage throws.
 */
export async function readImage(storage: Storage, path: string, size: number): Promise<Int32Array> {
  const bytes = await storage.read(path);
  const { data } = resize(await decodeImage(bytes, path), size, size);
  return Int32Array.from(
    { length: size * size },
    (_, i) => ((data[3 * i] ?? 0) << 16) | ((data[3 * i + 1] ?? 0) << 8) | (data[3 * i + 2] ?? 0),
  );
}

/**
 * Decode a PNG or JPEG. Transparency is dropped, grey spread to three channels, 16 bits cut to 8, and the image stands as
 * its EXIF orientation says, as in transformers and `datasets`.
 * @throws {TuneError} `bad-image` as {@link readImage}.
 */
export async function decodeImage(bytes: Uint8Array, at: string): Promise<Pixels> {
  const [first = 0, second = 0] = bytes;
  try {
    if ((first === 0x89 && second === 0x50) || (first === 0xff && second === 0xd8)) {
      const { pixels, orientation } = first === 0x89 ? await decodePng(bytes) : await decodeJpeg(bytes);
      return upright(pixels, orientation);
    }
  } catch (cause) {
    throw bad(`it does not decode: ${cause instanceof Error ? cause.message : String(cause)}`, at, cause);
  }
  throw bad("it is neither PNG nor JPEG", at);
}

function bad(why: string, at: string, cause?: unknown): TuneError {
  return new TuneError("bad-image", `The image ${at} cannot be used: ${why}.`, {
    at,
    fix: "replace it by a PNG or JPEG file, or leave its row out",
    ...(cause === undefined ? {} : { cause }),
  });
}

/**
 * Resize by a triangle filter that widens as the image shrinks, first along rows, then along columns, rounding to
 * bytes in between: Pillow's bilinear filter, which transformers' processors use.
 */
export function resize(image: Pixels, width: number, height: number): Pixels {
  const across = width === image.width ? image.data : alongRows(image, width);
  const turned = height === image.height ? across : alongColumns(across, width, image.height, height);
  return { width, height, data: turned };
}

/** Which pixels each output pixel is made of, and how much of each. */
function weightsFor(from: number, to: number): readonly { readonly start: number; readonly weights: Float64Array }[] {
  const scale = from / to;
  const support = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = Float64Array.from({ length: end - start }, (__, j) =>
      Math.max(0, 1 - Math.abs((start + j - centre + 0.5) / support)),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { start, weights: weights.map((weight) => weight / total) };
  });
}

function alongRows({ width, height, data }: Pixels, to: number): Uint8Array {
  const result = new Uint8Array(3 * to * height);
  const table = weightsFor(width, to);
  for (let y = 0; y < height; y++) {
    for (const [x, { start, weights }] of table.entries()) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0.5;
        for (let j = 0; j < weights.length; j++)
          sum += (weights[j] as number) * (data[3 * (y * width + start + j) + channel] as number); // inside the row
        result[3 * (y * to + x) + channel] = Math.min(255, Math.trunc(sum));
      }
    }
  }
  return result;
}

function alongColumns(data: Uint8Array, width: number, from: number, to: number): Uint8Array {
  const result = new Uint8Array(3 * width * to);
  const row = 3 * width;
  for (const [y, { start, weights }] of weightsFor(from, to).entries()) {
    for (let x = 0; x < row; x++) {
      let sum = 0.5;
      for (let j = 0; j < weights.length; j++) sum += (weights[j] as number) * (data[(start + j) * row + x] as number); // inside the column
      result[y * row + x] = Math.min(255, Math.trunc(sum));
    }
  }
  return result;
}
