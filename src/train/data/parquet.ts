import { TuneError } from "../../errors.ts";
import type { DataRow } from "./formats.ts";

/**
 * Rows of a Parquet file, counted from 1 as lines.
 * @throws {TuneError} `malformed-data` when the file cannot be read: it is damaged, or compressed otherwise than by Snappy.
 */
export async function parseParquet(bytes: Uint8Array, at: string): Promise<readonly DataRow[]> {
  const { parquetReadObjects } = await import("hyparquet");
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer; // never shared
  try {
    const rows = await parquetReadObjects({ file });
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
