import type { SchemaTree } from "hyparquet";
import { TuneError } from "../../errors.ts";
import { ExactNumber, parseExactJson } from "../../io/exact-json.ts";
import { isJsonObject, type JsonObject } from "../../io/json.ts";
import type { DataRow } from "./formats.ts";
import { pageCodecs } from "./parquet-codecs.ts";
import { checkPages, type FileSlices } from "./parquet-pages.ts";

/**
 * Rows of a Parquet file, counted from 1 as lines, a row group at a time: no more than that of the file is in memory.
 * Numbers are as Python's readers give them: whole ones exact, however large, and those of a floating-point column with a
 * point (`20.0`), which templates write.
 * @throws {TuneError} `malformed-data` when the file cannot be read: it is damaged, or compressed by LZO.
 */
export async function* parquetRows(file: FileSlices, at: string): AsyncGenerator<readonly DataRow[]> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet");
  const compressors = await pageCodecs();
  const text = new TextDecoder();
  const parsers = { jsonFromBytes: (bytes: Uint8Array | undefined) => bytes && parseExactJson(text.decode(bytes)) };
  const slice = (start: number, end = file.sizeBytes): Promise<ArrayBuffer> =>
    watched(file.read(start, end).then((bytes) => Uint8Array.from(bytes).buffer));
  const buffer = { byteLength: file.sizeBytes, slice };
  try {
    const metadata = await parquetMetadataAsync(buffer);
    const schema = parquetSchema(metadata);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      await checkPages(file, group);
      const rowEnd = rowStart + Number(group.num_rows);
      const first = rowStart;
      const rows = await parquetReadObjects({ metadata, file: buffer, rowStart, rowEnd, compressors, parsers });
      yield rows.map((row, i) => ({ line: first + i + 1, value: spelt(row, schema) as JsonObject })); // a row is an object
      rowStart = rowEnd;
    }
  } catch (cause) {
    if (cause instanceof TuneError) throw cause;
    throw new TuneError(
      "malformed-data",
      `The Parquet file cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`,
      {
        at,
        fix: "check that the file is whole, or write it anew (any compression but LZO is read)",
        cause,
      },
    );
  }
}

/** A value of a column, with numbers that know how they are written. */
function spelt(value: unknown, column: SchemaTree | undefined): unknown {
  if (typeof value === "bigint") {
    return Number.isSafeInteger(Number(value)) ? Number(value) : new ExactNumber(String(value));
  }
  const { type, logical_type: logical } = column?.element ?? {};
  if (typeof value === "number") {
    const floats = type === "DOUBLE" || type === "FLOAT" || logical?.type === "FLOAT16";
    const text = String(value);
    return floats && /^-?\d+$/.test(text) ? new ExactNumber(`${text}.0`) : value;
  }
  if (Array.isArray(value)) {
    // A list is a group of one repeated group of one element; older writers leave one of the two out.
    const [repeated] = column?.children ?? [];
    const element = repeated?.children.length === 1 ? repeated.children[0] : repeated;
    return value.map((part) => spelt(part, element));
  }
  if (ArrayBuffer.isView(value) && !(value instanceof Uint8Array || value instanceof DataView)) {
    return Array.from(value as unknown as ArrayLike<unknown>, (part) => spelt(part, column)); // numbers
  }
  if (!isJsonObject(value) || value instanceof ExactNumber || value instanceof Date) return value;
  const children = column?.children ?? [];
  const map = children[0]?.children.find(({ element }) => element.name === "value");
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [
      name,
      spelt(part ?? null, children.find(({ element }) => element.name === name) ?? map),
    ]),
  );
}

/**
 * A promise whose successors count as handled. hyparquet 1.31 decodes columns side by side and leaves when the first
 * fails: that the others fail too would go unhandled, which ends a Node process.
 */
function watched<T>(promise: Promise<T>): Promise<T> {
  const then = (...handlers: readonly unknown[]): Promise<unknown> => {
    const next: Promise<unknown> = Reflect.apply(Promise.prototype.then, promise, handlers);
    next.catch(() => undefined);
    return watched(next);
  };
  // biome-ignore lint/suspicious/noThenProperty: a promise it is, and stays one
  return Object.assign(promise, { then: then as typeof promise.then }); // the same arguments, the same result
}
