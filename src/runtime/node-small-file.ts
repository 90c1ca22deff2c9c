import { readFileSync } from "node:fs";

/** The text of a small file of the system; undefined where there is none: another system, or another version of it. */
export function readSmall(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
