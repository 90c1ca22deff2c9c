import { contentHash } from "../io/content-hash.ts";
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

/** A line of a journal: a result with a checksum of it. */
export function journalLine(key: string, diagnosis: MatrixDiagnosis): string {
  return JSON.stringify({ key, diagnosis, checksum: contentHash(JSON.stringify({ key, diagnosis })) });
}

/** A journal in a file, one line of JSON a matrix. A line that is not as it was written is no result. */
export function fileJournal(storage: Storage, path: string): Journal {
  return {
    read: async () => {
      if ((await storage.sizeBytes(path)) === undefined) return new Map();
      const text = new TextDecoder().decode(await storage.read(path));
      const entries = text.split("\n").flatMap((line): [string, MatrixDiagnosis][] => {
        try {
          const { key, diagnosis } = parseJson(line) as { key: string; diagnosis: MatrixDiagnosis };
          return line === journalLine(key, diagnosis) ? [[key, diagnosis]] : []; // damaged, or of an older Scion
        } catch {
          return []; // the last line, which a kill cut short
        }
      });
      return new Map(entries);
    },
    append: (key, diagnosis) => storage.append(path, `${journalLine(key, diagnosis)}\n`),
    remove: () => storage.remove(path),
  };
}
