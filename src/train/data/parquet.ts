import { TuneError } from "../../errors.ts";
import type { DataRow } from "./formats.ts";
import { checkPages } from "./parquet-pages.ts";

/**
 * Rows of a Parquet file, counted from 1 as lines.
 * @throws {TuneError} `malformed-data` when the file cannot be read: it is damaged, or compressed otherwise than by Snappy.
 */
export async function parseParquet(bytes: Uint8Array, at: string): Promise<readonly DataRow[]> {
  const { parquetMetadata, parquetReadObjects } = await import("hyparquet");
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer; // never shared
  const slice = (start: number, end?: number): Promise<ArrayBuffer> => watched(Promise.resolve(file.slice(start, end)));
  try {
    const metadata = parquetMetadata(file);
    checkPages(bytes, metadata);
    const rows = await parquetReadObjects({ metadata, file: { byteLength: file.byteLength, slice } });
    return rows.map((value, i) => ({ line: i + 1, value }));
  } catch (cause) {
    throw new TuneError(
      "malformed-data",
      `The Parquet file cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`,
      {
        at,
        fix: "check that the file is whole, or write it anew with Snappy compression or none",
        cause,
      },
    );
  }
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
