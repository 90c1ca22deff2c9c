import { type Orientation, orientationOf } from "./exif.ts";
import { checkSize, type Pixels } from "./pixels.ts";

/** The most bytes that the samples of a PNG may take once they are inflated: 85 megapixels of 8-bit RGB. */
const mostInflated = 2 ** 28;
/** Deflate makes no more than this many bytes of one. */
const mostUnfolding = 1032;

/** By colour type: samples a pixel, and the bits that one may have. */
const colourTypes: Readonly<Record<number, { readonly channels: number; readonly depths: readonly number[] }>> = {
  0: { channels: 1, depths: [1, 2, 4, 8, 16] },
  2: { channels: 3, depths: [8, 16] },
  3: { channels: 1, depths: [1, 2, 4, 8] },
  4: { channels: 2, depths: [8, 16] },
  6: { channels: 4, depths: [8, 16] },
};

/** What a PNG says of itself, checked, with the chunks that its pixels need and no others. */
interface MeasuredPng {
  /** The file without profiles, texts, transparency and further frames, which nothing reads and a decoder would inflate. */
  readonly bytes: Uint8Array;
  /** The compressed samples, a part for each chunk. */
  readonly compressed: readonly Uint8Array[];
  /** How many bytes they are inflated. */
  readonly inflated: number;
  readonly orientation: Orientation;
}

/**
 * Decode a PNG to 8-bit RGB. Everything is measured before anything is inflated: the samples have to be as many as the
 * header says, and nothing else is inflated at all. Transparency is dropped, 16 bits are cut to 8.
 * @throws {Error} saying what is wrong.
 */
export async function decodePng(file: Uint8Array): Promise<{ pixels: Pixels; orientation: Orientation }> {
  const { bytes, compressed, inflated, orientation } = measure(file);
  await checkInflated(compressed, inflated);
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
  return { pixels: { width, height, data: pixels }, orientation };
}

/** Walk over the chunks of a PNG. */
function measure(file: Uint8Array): MeasuredPng {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const kept: Uint8Array[] = [file.subarray(0, 8)];
  const compressed: Uint8Array[] = [];
  let inflated: number | undefined;
  let orientation: Orientation = 1;
  let indexed = false;
  let palette = false;
  let ended = false;
  for (let at = 8; !ended; ) {
    if (at + 12 > file.length) throw new Error(at === 8 ? "it ends within its header" : "it is cut short");
    const length = view.getUint32(at);
    const type = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const end = at + 12 + length;
    if (end > file.length) throw new Error(`its chunk ${printable(type)} is cut short`);
    const content = file.subarray(at + 8, end - 4);
    if (at === 8) {
      if (type !== "IHDR" || length !== 13) throw new Error("it does not begin with a header");
      ({ inflated, indexed } = measureHeader(content));
    }
    if (type === "IDAT") compressed.push(content);
    if (type === "PLTE") {
      if (length > 768) throw new Error("its palette has more than 256 colours");
      palette = true;
    }
    if (type === "eXIf") orientation = orientationOf(content);
    if (["IHDR", "IDAT", "IEND"].includes(type) || (type === "PLTE" && indexed)) kept.push(file.subarray(at, end));
    ended = type === "IEND";
    at = end;
  }
  if (indexed && !palette) throw new Error("its pixels are numbers of colours, and it has no palette");
  if (inflated === undefined || compressed.length === 0) throw new Error("it has no pixels");
  const bytes = new Uint8Array(kept.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of kept) {
    bytes.set(part, at);
    at += part.length;
  }
  return { bytes, compressed, inflated, orientation };
}

function measureHeader(header: Uint8Array): { readonly inflated: number; readonly indexed: boolean } {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth = 0, colourType = 0, , , interlaced = 0] = header.subarray(8);
  checkSize(width, height);
  const kind = colourTypes[colourType];
  if (!kind?.depths.includes(depth)) throw new Error(`PNG has no colour type ${colourType} in ${depth} bits`);
  if (interlaced > 1) throw new Error(`PNG has no interlacing ${interlaced}`);
  const passes = interlaced === 1 ? adam7(width, height) : [[width, height] as const];
  let inflated = 0;
  for (const [across, down] of passes) {
    if (across > 0) inflated += down * (1 + Math.ceil((across * kind.channels * depth) / 8)); // a byte a row for its filter
  }
  if (inflated > mostInflated) {
    throw new Error(
      `its ${width} by ${height} pixels of ${kind.channels} times ${depth} bits are ${inflated} bytes, and the most is ${mostInflated}`,
    );
  }
  return { inflated, indexed: colourType === 3 };
}

/** Columns and rows of the seven passes of an interlaced PNG. */
function adam7(width: number, height: number): readonly (readonly [number, number])[] {
  const starts = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
  ] as const;
  return starts.map(([x, y, dx, dy]) => [Math.ceil((width - x) / dx), Math.ceil((height - y) / dy)]);
}

/** Inflate without keeping anything, and stop at the first byte too many. */
async function checkInflated(compressed: readonly Uint8Array[], expected: number): Promise<void> {
  const bytes = compressed.reduce((sum, part) => sum + part.length, 0);
  if (expected > mostUnfolding * bytes) {
    throw new Error(`its header promises ${expected} bytes of pixels, which its ${bytes} bytes cannot hold`);
  }
  const parts = compressed.values();
  const source = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull: (controller) => {
      const { value } = parts.next();
      if (value) controller.enqueue(value.slice());
      else controller.close();
    },
  });
  const reader = source.pipeThrough(new DecompressionStream("deflate")).getReader();
  let found = 0;
  for (let step = await reader.read(); !step.done && found <= expected; step = await reader.read())
    found += step.value.length;
  if (found > expected) {
    await reader.cancel().catch(() => undefined);
    throw new Error(`it holds more than the ${expected} bytes of pixels that its header promises`);
  }
  if (found < expected)
    throw new Error(`it holds ${found} of the ${expected} bytes of pixels that its header promises`);
}

function printable(type: string): string {
  return /^[A-Za-z]{4}$/.test(type) ? type : "of no known type";
}
