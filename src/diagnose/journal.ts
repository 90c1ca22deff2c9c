import { parseJson } from "../io/json.ts";
import type { Storage } from "../io/storage.ts";
import type { MatrixDiagnosis } from "./report.ts";

/** Results as they come, so that a diagnosis that is cut short goes on where it was. */
export interface Journal {
  /** What is there, by what decides it. */
  read(): Promise<ReadonlyMap<string, MatrixDiagnosis>>;
  append(key: string, diagnosis: MatrixDiagnosis): Promise<void>;
  /** Forget it, once the whole report is written. */
  remove(): Promise<void>;
}

/** A journal in a file, one line of JSON a matrix. */
export function fileJournal(storage: Storage, path: string): Journal {
  return {
    read: async () => {
      if ((await storage.sizeBytes(path)) === undefined) return new Map();
      const text = new TextDecoder().decode(await storage.read(path));
      const entries = text.split("\n").flatMap((line): [string, MatrixDiagnosis][] => {
        try {
          const { key, diagnosis } = parseJson(line) as { key: string; diagnosis: MatrixDiagnosis }; // our own file
          return [[key, diagnosis]];
        } catch {
          return []; // the last line, which a kill cut short
        }
      });
      return new Map(entries);
    },
    append: (key, diagnosis) => storage.append(path, `${JSON.stringify({ key, diagnosis })}\n`),
    remove: () => storage.remove(path),
  };
}
