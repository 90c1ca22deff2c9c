import type { RowGroup } from "hyparquet";

/** A file that is read in parts. */
export interface FileSlices {
  readonly sizeBytes: number;
  readonly read: (start: number, end: number) => Promise<Uint8Array>;
}

/** A column may unfold to this many values for a byte of its file. */
const valuesForAByte = 64;

/** A page may unfold to this many times its bytes, and to so many bytes whatever it says. */
const [unfolding, largestPage] = [300, 2 ** 28];

/** What the pages of a row group may unfold to, whatever their size, and for each of their bytes. Bytes. */
const [groupAtFirst, groupForAByte] = [2 ** 28, 256];

/** Codecs that fold what repeats further: Deflate to a 1032th at most, Zstandard and Brotli without such a bound. */
const unfoldingOf: Readonly<Record<string, number>> = { GZIP: 1032, ZSTD: 2 ** 17, BROTLI: 2 ** 17 };

/**
 * Check the headers of all pages of a row group of a Parquet file before anything of it is decoded: hyparquet 1.31 follows sizes that lead
 * backwards round and round, and makes room for as many values as a page claims.
 * @throws {Error} saying what is wrong.
 */
export async function checkPages(file: FileSlices, group: RowGroup): Promise<void> {
  const { sizeBytes } = file;
  let [unfolded, foldedBytes] = [0, 0];
  const mostValues = 1000 + valuesForAByte * sizeBytes;
  for (const { meta_data: column } of group.columns) {
    if (!column) throw new Error("a column says nothing of itself");
    const name = column.path_in_schema.join(".");
    const { dictionary_page_offset: dictionary = 0n, data_page_offset: data } = column;
    const start = Number(dictionary > 0n && dictionary < data ? dictionary : data);
    const end = start + Number(column.total_compressed_size);
    if (!(start >= 4 && start <= end && end <= sizeBytes)) throw new Error(`column ${name} lies outside the file`);
    if (
      !(
        Number(column.num_values) >= 0 &&
        Number(column.num_values) <= mostValues &&
        Number(group.num_rows) <= mostValues
      )
    ) {
      throw new Error(`column ${name} claims ${column.num_values} values`);
    }
    const bytes = await file.read(start, end);
    let values = 0;
    for (let at = 0; at < bytes.length - 1; ) {
      const page = readPageHeader(bytes.subarray(at));
      const folded = page.compressedBytes;
      if (!(folded >= 0 && at + page.headerBytes + folded <= bytes.length))
        throw new Error(`a page of ${name} is cut short`);
      const most = 4096 + (unfoldingOf[column.codec] ?? unfolding) * folded;
      if (!(page.bytes >= 0 && page.bytes <= Math.min(most, largestPage)))
        throw new Error(`a page of ${name} claims ${page.bytes} bytes`);
      if (!(page.values >= 0 && page.values <= mostValues))
        throw new Error(`a page of ${name} claims ${page.values} values`);
      unfolded += page.bytes;
      foldedBytes += folded;
      if (unfolded > groupAtFirst + groupForAByte * foldedBytes)
        throw new Error(`the pages of a row group claim ${unfolded} bytes or more`);
      if (!page.isDictionary) values += page.values;
      at += page.headerBytes + folded;
    }
    if (values !== Number(column.num_values))
      throw new Error(`column ${name} holds ${values} values, not ${column.num_values}`);
  }
}

interface PageHeader {
  readonly headerBytes: number;
  readonly bytes: number;
  readonly compressedBytes: number;
  readonly values: number;
  readonly isDictionary: boolean;
}

/** `PageHeader` of parquet.thrift, in Thrift's compact protocol. */
function readPageHeader(bytes: Uint8Array): PageHeader {
  const reader = { bytes, at: 0 };
  const fields = readStruct(reader, 0);
  const number = (id: number): number => {
    const value = fields.get(id);
    if (typeof value !== "number") throw new Error("a page header lacks its sizes");
    return value;
  };
  // Fields 5, 7 and 8 are headers of a data page, a dictionary and a data page of version 2; their first is num_values.
  const inner = [5, 7, 8].map((id) => fields.get(id)).find((value) => value instanceof Map);
  const values = inner instanceof Map ? inner.get(1) : 0; // an index page has none
  if (typeof values !== "number") throw new Error("a page header lacks its number of values");
  return {
    headerBytes: reader.at,
    bytes: number(2),
    compressedBytes: number(3),
    values,
    isDictionary: fields.get(7) instanceof Map,
  };
}

interface Reader {
  readonly bytes: Uint8Array;
  at: number;
}

type Fields = Map<number, number | Fields | undefined>;

function readStruct(reader: Reader, depth: number): Fields {
  if (depth > 8) throw new Error("a page header nests too deep");
  const fields: Fields = new Map();
  for (let id = 0; ; ) {
    const head = byteOf(reader);
    if (head === 0) return fields;
    id = head >> 4 === 0 ? zigzag(reader) : id + (head >> 4);
    fields.set(id, readValue(reader, head & 15, depth));
  }
}

/** A number or a struct; of what else there is, nothing is kept. */
function readValue(reader: Reader, type: number, depth: number): number | Fields | undefined {
  if (type === 1 || type === 2) return undefined; // true and false are in the type
  if (type === 3) return byteOf(reader);
  if (type >= 4 && type <= 6) return zigzag(reader);
  if (type === 7) skip(reader, 8);
  else if (type === 8) skip(reader, varint(reader));
  else if (type === 9 || type === 10) {
    const head = byteOf(reader);
    const count = head >> 4 === 15 ? varint(reader) : head >> 4;
    for (let i = 0; i < count; i++) readValue(reader, (head & 15) <= 2 ? 3 : head & 15, depth + 1);
  } else if (type === 12) return readStruct(reader, depth + 1);
  else throw new Error(`a page header holds a value of type ${type}`);
  return undefined;
}

function byteOf(reader: Reader): number {
  const byte = reader.bytes[reader.at++];
  if (byte === undefined) throw new Error("a page header is cut short");
  return byte;
}

function skip(reader: Reader, count: number): void {
  reader.at += count;
  if (!(count >= 0 && reader.at <= reader.bytes.length)) throw new Error("a page header is cut short");
}

function varint(reader: Reader): number {
  let value = 0;
  for (let factor = 1; factor < 2 ** 64; factor *= 128) {
    const byte = byteOf(reader);
    value += (byte & 127) * factor;
    if (byte < 128) return value;
  }
  throw new Error("a page header holds a number without end");
}

function zigzag(reader: Reader): number {
  const value = varint(reader);
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}
