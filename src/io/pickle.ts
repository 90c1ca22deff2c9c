import { TuneError } from "../errors.ts";

/**
 * The error for a folder whose weights only Python's pickle can read: unpickling runs whatever code the file holds.
 */
export function pickleRefused(folder: string, file: string, fix: string): TuneError {
  return new TuneError("pickle-refused", `${file} is a Python pickle, which can run any code when it is read.`, {
    at: folder,
    fix,
  });
}
