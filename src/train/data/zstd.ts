import { createXxh64, type Xxh64 } from "./xxh64.ts";

/*
 * Zstandard (RFC 8878) a block at a time. fzstd decodes the blocks; what a frame and a block claim is checked before it sees
 * them, as it makes room for any window, unfolds all that it is given at once, and moves its window for every block. It
 * passes over the checksum of a frame, which is checked here. Nor does it ask whether a match reaches back beyond what there
 * is: it copies bytes of zero then. Where no checksum tells, text is refused that holds them.
 */

/** The largest window of a frame: what zstd itself takes unless told otherwise. Bytes. */
const largestWindow = 2 ** 27;

/** The largest block, whatever its frame says. Bytes. */
const largestBlock = 2 ** 17;

/** How many bytes of windows may be moved in all, and how many more for a byte that comes out; a new window costs as much as so many moves. */
const [movedAtFirst, movedForAByte, movesOfNew] = [2 ** 34, 2 ** 13, 16];

/** What is wrong where text without a checksum holds what a match from nowhere copies. */
const zeros =
  "it unfolds to bytes of zero, which are no text, and it has no checksum: it is damaged, or it was compressed from something else (zstd --check writes a checksum)";

/** What {@link import("fzstd").Decompress} is used for. */
interface FrameDecoder {
  push(bytes: Uint8Array, final?: boolean): void;
}
type MakeDecoder = new (onData: (bytes: Uint8Array) => void) => FrameDecoder;

interface Frame {
  readonly headerBytes: number;
  readonly window: number;
  /** How much it holds, where it says so. Bytes. */
  readonly content: number | undefined;
  readonly checksumBytes: number;
}

/** Unfolds what is pushed; all of it has been seen when `end` is called. */
export interface Unzstd {
  push(piece: Uint8Array): Generator<Uint8Array>;
  /** @throws {Error} when something is missing. */
  end(): void;
}

/**
 * @param holds what it unfolds to; `text` has no bytes of zero.
 * @throws {Error} (its generator) saying what is wrong with the bytes.
 */
export function createUnzstd(Decompress: MakeDecoder, holds: "text" | "bytes"): Unzstd {
  let rest = new Uint8Array();
  let unfolded: Uint8Array[] = [];
  let [any, skip, produced, moved] = [false, 0, 0, 0];
  let current:
    | { readonly frame: Frame; readonly decoder: FrameDecoder; readonly from: number; readonly hash: Xxh64 }
    | undefined;

  /** How many of the bytes were used; 0 when more are needed. */
  const step = (bytes: Uint8Array): number => {
    if (skip > 0) {
      const skipped = Math.min(skip, bytes.length);
      skip -= skipped;
      return skipped;
    }
    if (current === undefined) {
      const found = readFrame(bytes);
      if (found === undefined) return 0;
      any = true;
      if ("skip" in found) {
        skip = found.skip;
        return 8;
      }
      moved += movesOfNew * found.window;
      if (moved > movedAtFirst + movedForAByte * produced) throw new Error("its frames are too small for their window");
      const hash = createXxh64();
      const decoder = new Decompress((piece) => {
        produced += piece.length;
        if (found.checksumBytes > 0) hash.update(piece);
        else if (holds === "text" && piece.includes(0)) throw new Error(zeros);
        unfolded.push(piece);
      });
      decoder.push(bytes.slice(0, found.headerBytes));
      current = { frame: found, decoder, from: produced, hash };
      return found.headerBytes;
    }
    const { frame, decoder, from, hash } = current;
    const block = readBlock(bytes, frame);
    const length = block === undefined ? 0 : block.bytes + (block.last ? frame.checksumBytes : 0);
    if (block === undefined || bytes.length < length) return 0;
    moved += frame.window;
    if (moved > movedAtFirst + movedForAByte * produced) throw new Error("its blocks are too small for their window");
    decoder.push(bytes.slice(0, length), block.last);
    if (block.last) {
      current = undefined;
      if (frame.content !== undefined && produced - from !== frame.content)
        throw new Error(`a frame holds ${produced - from} bytes, not ${frame.content}`);
      if (frame.checksumBytes > 0 && numberAt(bytes, length - 4, 4) !== hash.low())
        throw new Error("what a frame holds is not what its checksum is of: the file is damaged");
    }
    return length;
  };

  return {
    push: function* (piece) {
      const bytes = new Uint8Array(rest.length + piece.length);
      bytes.set(rest);
      bytes.set(piece, rest.length);
      let at = 0;
      for (let used = 1; used > 0 && at < bytes.length; at += used) {
        used = step(bytes.subarray(at));
        yield* unfolded;
        unfolded = [];
      }
      rest = bytes.slice(at);
    },
    end: () => {
      if (!any) throw new Error("it is empty, or no Zstandard");
      if (current !== undefined || skip > 0 || rest.length > 0) throw new Error("it is cut short");
    },
  };
}

/** All of what is folded, which must be `length` bytes. @throws {Error} saying what is wrong. */
export function unzstdWhole(Decompress: MakeDecoder, bytes: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  const stream = createUnzstd(Decompress, "bytes");
  let at = 0;
  for (const piece of stream.push(bytes)) {
    if (at + piece.length > length) throw new Error(`it unfolds to more than the ${length} bytes that it claims`);
    whole.set(piece, at);
    at += piece.length;
  }
  stream.end();
  if (at !== length) throw new Error(`it unfolds to ${at} bytes, not the ${length} that it claims`);
  return whole;
}

/** The header of a frame, or how much of one to skip; undefined when more bytes are needed. */
function readFrame(bytes: Uint8Array): Frame | { readonly skip: number } | undefined {
  if (bytes.length < 5) return undefined;
  const magic = numberAt(bytes, 0, 4);
  if (magic >= 0x184d2a50 && magic <= 0x184d2a5f) return bytes.length < 8 ? undefined : { skip: numberAt(bytes, 4, 4) };
  if (magic !== 0xfd2fb528) throw new Error("it is no Zstandard");
  const flags = bytes[4] ?? 0;
  const single = (flags & 32) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][flags & 3] ?? 0;
  const contentBytes = [single ? 1 : 0, 2, 4, 8][flags >> 6] ?? 0;
  const headerBytes = 5 + (single ? 0 : 1) + dictionaryBytes + contentBytes;
  if (bytes.length < headerBytes) return undefined;
  if ((flags & 8) !== 0) throw new Error("a frame's header is no known one");
  if (numberAt(bytes, single ? 5 : 6, dictionaryBytes) !== 0) throw new Error("it needs a dictionary");
  const said = numberAt(bytes, headerBytes - contentBytes, contentBytes) + (contentBytes === 2 ? 256 : 0);
  const exponent = 2 ** (10 + ((bytes[5] ?? 0) >> 3));
  const window = single ? said : exponent + (exponent / 8) * ((bytes[5] ?? 0) & 7);
  if (window > largestWindow) throw new Error(`a frame claims a window of ${window} bytes`);
  return {
    headerBytes,
    window,
    content: contentBytes === 0 ? undefined : said,
    checksumBytes: (flags & 4) !== 0 ? 4 : 0,
  };
}

/** The length of a block with its header; undefined when more bytes are needed. */
function readBlock(
  bytes: Uint8Array,
  { window }: Frame,
): { readonly bytes: number; readonly last: boolean } | undefined {
  if (bytes.length < 3) return undefined;
  const head = numberAt(bytes, 0, 3);
  const [size, kind] = [head >> 3, (head >> 1) & 3];
  if (kind === 3) throw new Error("a block is of no known kind");
  if (size > Math.min(window, largestBlock)) throw new Error(`a block claims ${size} bytes`);
  return { bytes: 3 + (kind === 1 ? 1 : size), last: (head & 1) !== 0 };
}

/** A number, its lowest byte first. */
function numberAt(bytes: Uint8Array, at: number, length: number): number {
  let value = 0;
  for (let i = length - 1; i >= 0; i--) value = value * 256 + (bytes[at + i] ?? 0);
  return value;
}
