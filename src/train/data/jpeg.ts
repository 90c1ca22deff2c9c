import { type Orientation, orientationOf } from "./exif.ts";
import { checkSize, type Pixels } from "./pixels.ts";

/** The most scans of a progressive JPEG (libjpeg writes 10), and the most blocks that all scans together may go over. */
const [mostScans, mostBlocksScanned] = [100, 5e7];
/** The most memory that the decoder may take. Megabytes. */
const mostMegabytes = 1024;

/** What a JPEG says of itself before anything of it is decoded. */
interface MeasuredJpeg {
  readonly orientation: Orientation;
  /** Whether its components are red, green and blue as they stand. */
  readonly rgb: boolean;
}

/**
 * Decode a baseline or progressive JPEG to 8-bit RGB.
 * @throws {Error} saying what is wrong.
 */
export async function decodeJpeg(bytes: Uint8Array): Promise<{ pixels: Pixels; orientation: Orientation }> {
  const { orientation, rgb } = measure(bytes);
  const { decode } = await import("jpeg-js");
  const { width, height, data } = decode(bytes, {
    useTArray: true,
    formatAsRGBA: false,
    tolerantDecoding: false,
    ...(rgb ? { colorTransform: false } : {}),
    maxResolutionInMP: 1000, // checked before
    maxMemoryUsageInMB: mostMegabytes,
  });
  return { pixels: { width, height, data }, orientation };
}

interface Frame {
  /** Blocks of 8 by 8 samples, of all components. */
  readonly blocks: number;
  readonly components: readonly number[];
}

/** Walk over the segments of a JPEG: one frame, of a kind that the decoder knows, and scans that end. */
function measure(bytes: Uint8Array): MeasuredJpeg {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let frame: Frame | undefined;
  let orientation: Orientation = 1;
  let adobe: number | undefined;
  let jfif = false;
  let scans = 0;
  for (let at = 2; ; ) {
    // Between segments: fill bytes, restart markers and, after a scan, its samples.
    while (at + 1 < bytes.length && !(bytes[at] === 0xff && isMarker(bytes[at + 1] ?? 0))) {
      const next = bytes.indexOf(0xff, at + 1);
      at = next < 0 ? bytes.length : next;
    }
    const marker = bytes[at + 1];
    if (marker === undefined || marker === 0xd9) break;
    if (at + 4 > bytes.length) throw new Error("it is cut short");
    const length = view.getUint16(at + 2);
    const content = bytes.subarray(at + 4, at + 2 + length);
    if (length < 2 || at + 2 + length > bytes.length) throw new Error("one of its segments is cut short");
    at += 2 + length;
    if (isFrame(marker)) {
      if (frame) throw new Error("it holds more than one frame");
      frame = measureFrame(marker, content, bytes.length);
    } else if (marker === 0xda) {
      scans += 1;
      if (!frame) throw new Error("its samples come before its size");
      if (scans > mostScans || scans * frame.blocks > Math.max(mostBlocksScanned, frame.blocks))
        throw new Error(
          `it has too many scans: at most ${mostScans}, and ${mostBlocksScanned} blocks of pixels in all`,
        );
    } else if (marker === 0xe0 && startsWith(content, "JFIF\0")) jfif = true;
    else if (marker === 0xe1 && startsWith(content, "Exif\0\0")) orientation = orientationOf(content.subarray(6));
    else if (marker === 0xee && startsWith(content, "Adobe") && content.length >= 12) adobe = content[11];
  }
  if (!frame) throw new Error("it does not say how large it is");
  const named = String.fromCharCode(...frame.components) === "RGB";
  return {
    orientation,
    rgb: frame.components.length === 3 && (adobe === 0 || (adobe === undefined && !jfif && named)),
  };
}

/** A byte after 0xff that begins a segment, or ends the file. */
function isMarker(byte: number): boolean {
  return byte > 0x01 && byte !== 0xff && !(byte >= 0xd0 && byte <= 0xd8);
}

function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc;
}

function measureFrame(marker: number, content: Uint8Array, fileBytes: number): Frame {
  if (marker > 0xc2) {
    const kind = marker >= 0xc9 ? "arithmetic coding" : marker === 0xc3 ? "lossless coding" : "a hierarchy of frames";
    throw new Error(`it is a JPEG with ${kind}, which is not read: baseline and progressive ones are`);
  }
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const count = content[5];
  if (count === undefined || content.length < 6 + 3 * count) throw new Error("its header is cut short");
  const [precision, height, width] = [content[0], view.getUint16(1), view.getUint16(3)];
  if (precision !== 8) throw new Error(`its samples have ${precision} bits, and 8 is what is read`);
  if (height === 0) throw new Error("its height stands after its pixels, which is not read");
  checkSize(width, height);
  if (count !== 1 && count !== 3 && count !== 4) throw new Error(`it has ${count} components: 1, 3 and 4 are read`);
  const parts = Array.from({ length: count }, (_, i) => {
    const sampling = content[7 + 3 * i] ?? 0;
    return { id: content[6 + 3 * i] ?? 0, across: sampling >> 4, down: sampling & 15 };
  });
  if (parts.some(({ across, down }) => across < 1 || across > 4 || down < 1 || down > 4))
    throw new Error("a component's sampling is not between 1 and 4");
  const [most, deepest] = [Math.max(...parts.map((part) => part.across)), Math.max(...parts.map((part) => part.down))];
  const units = Math.ceil(width / 8 / most) * Math.ceil(height / 8 / deepest);
  const blocks = parts.reduce((sum, { across, down }) => sum + units * across * down, 0);
  // A block takes a bit at least.
  if (blocks > 8 * fileBytes)
    throw new Error(`its ${fileBytes} bytes cannot hold the ${width} by ${height} pixels that it claims`);
  // The decoder holds four bytes a coefficient, then samples and pixels of a byte each.
  const megabytes = Math.ceil((blocks * 64 * 5 + 6 * width * height) / 2 ** 20);
  if (megabytes > mostMegabytes)
    throw new Error(
      `its ${width} by ${height} pixels take ${megabytes} megabytes to decode, and the most is ${mostMegabytes}`,
    );
  return { blocks, components: parts.map(({ id }) => id) };
}

function startsWith(content: Uint8Array, text: string): boolean {
  return [...text].every((character, i) => content[i] === character.charCodeAt(0));
}
