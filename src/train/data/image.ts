import { TuneError } from "../../errors.ts";
import type { Storage } from "../../io/storage.ts";

/** Red, green and blue of every pixel, row by row: 3·width·height bytes. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

const largestSide = 16384;
const largestArea = 100e6;

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

/** Decode a PNG or JPEG. Transparency is dropped, grey spread to three channels, 16 bits cut to 8. */
export async function decodeImage(bytes: Uint8Array, at: string): Promise<Pixels> {
  const [first = 0, second = 0] = bytes;
  try {
    if (first === 0x89 && second === 0x50) return await decodePng(bytes);
    if (first === 0xff && second === 0xd8) return await decodeJpeg(bytes);
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

async function decodePng(bytes: Uint8Array): Promise<Pixels> {
  // Sizes stand at a fixed place, and are looked at before memory is taken for them.
  const header = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 24) throw new Error("it ends within its header");
  refuseLarge(header.getUint32(16), header.getUint32(20));
  const { decode } = await import("fast-png");
  const { width, height, channels, depth, data, palette } = decode(bytes, { checkCrc: true });
  const pixels = new Uint8Array(3 * width * height);
  // Samples of fewer than 8 bits are packed, each row from a new byte on.
  const rowBytes = Math.ceil((width * depth) / 8);
  const sample = (x: number, y: number, channel: number): number => {
    if (depth >= 8) return data[(y * width + x) * channels + channel] ?? 0;
    const byte = data[y * rowBytes + ((x * depth) >> 3)] ?? 0;
    return (byte >> (8 - depth - ((x * depth) & 7))) & (2 ** depth - 1);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        const own = sample(x, y, channels < 3 ? 0 : channel);
        const value = depth === 16 ? own >> 8 : depth < 8 ? (own * 255) / (2 ** depth - 1) : own;
        pixels[3 * (y * width + x) + channel] = palette ? (palette[own]?.[channel] ?? 0) : value;
      }
    }
  }
  return { width, height, data: pixels };
}

async function decodeJpeg(bytes: Uint8Array): Promise<Pixels> {
  const { decode } = await import("jpeg-js");
  const { width, height, data } = decode(bytes, {
    useTArray: true,
    formatAsRGBA: false,
    tolerantDecoding: false,
    maxResolutionInMP: largestArea / 1e6,
    maxMemoryUsageInMB: 1024,
  });
  refuseLarge(width, height);
  return { width, height, data };
}

function refuseLarge(width: number, height: number): void {
  if (width === 0 || height === 0) throw new Error(`it is ${width} by ${height} pixels`);
  if (width > largestSide || height > largestSide || width * height > largestArea)
    throw new Error(`its ${width} by ${height} pixels are too many`);
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
