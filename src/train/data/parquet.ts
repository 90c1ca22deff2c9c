import { TuneError } from "../../errors.ts";
import type { DataRow } from "./formats.ts";
import { checkPages, type FileSlices } from "./parquet-pages.ts";

/**
 * Rows of a Parquet file, counted from 1 as lines, a row group at a time: no more than that of the file is in memory.
 * @throws {TuneError} `malformed-data` when the file cannot be read: it is damaged, or compressed otherwise than by Snappy.
 */
export async function* parquetRows(file: FileSlices, at: string): AsyncGenerator<readonly DataRow[]> {
  const { parquetMetadataAsync, parquetReadObjects } = await import("hyparquet");
  const slice = (start: number, end = file.sizeBytes): Promise<ArrayBuffer> =>
    watched(file.read(start, end).then((bytes) => Uint8Array.from(bytes).buffer));
  const buffer = { byteLength: file.sizeBytes, slice };
  try {
    const metadata = await parquetMetadataAsync(buffer);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      await checkPages(file, group);
      const rowEnd = rowStart + Number(group.num_rows);
      const first = rowStart;
      const rows = await parquetReadObjects({ metadata, file: buffer, rowStart, rowEnd });
      yield rows.map((value, i) => ({ line: first + i + 1, value }));
      rowStart = rowEnd;
    }
  } catch (cause) {
    if (cause instanceof TuneError) throw cause;
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
