import { TuneError } from "../../errors.ts";
import { writeExactJson } from "../../io/exact-json.ts";
import { createRng } from "../../linalg/index.ts";
import type { RowFormat } from "./formats.ts";
import type { Dataset } from "./read.ts";

/** How much to hold out. */
export interface SplitOptions {
  /** A fraction of the rows (below 1), or a number of rows; 0 holds nothing out. */
  readonly validation: number;
  readonly seed: number;
}

/**
 * Hold rows out for validation, the same ones for the same rows and seed. Rows with the same content stay together, so
 * no validation row is trained on; where duplicates make the exact number impossible, fewer are held out.
 * Both parts keep the order of the file.
 * @throws {TuneError} `bad-option` for a negative or fractional number of rows; `split-impossible` when a part would be
 *   empty.
 */
export function splitDataset<Format extends RowFormat>(
  dataset: Dataset<Format>,
  { validation, seed }: SplitOptions,
): { readonly train: Dataset<Format>; readonly validation: Dataset<Format> } {
  const { rows, format } = dataset;
  if (!(validation >= 0) || (validation >= 1 && !Number.isInteger(validation))) {
    throw new TuneError("bad-option", `The validation share is ${validation}.`, {
      fix: "use a fraction from 0 to 1, or a whole number of rows",
    });
  }
  const wanted =
    validation >= 1 ? validation : validation === 0 ? 0 : Math.max(1, Math.round(validation * rows.length));

  const groups = new Map<string, number[]>();
  const fields = [...format.keys, ...format.optionalKeys];
  for (const [i, { value }] of rows.entries()) {
    const content = writeExactJson(fields.map((key) => value[key] ?? null));
    const group = groups.get(content);
    if (group === undefined) groups.set(content, [i]);
    else group.push(i);
  }
  const heldOut = new Set<number>();
  if (wanted > 0) {
    for (const group of createRng(seed, "split").shuffle([...groups.values()])) {
      if (heldOut.size + group.length <= wanted) for (const i of group) heldOut.add(i);
    }
    if (heldOut.size === 0 || heldOut.size === rows.length) {
      throw new TuneError(
        "split-impossible",
        `${wanted} of ${rows.length} rows (${groups.size} different) cannot be held out with rows left on both sides.`,
        { at: dataset.at, fix: "hold out fewer rows, or give a validation file of its own" },
      );
    }
  }
  return {
    train: { ...dataset, rows: rows.filter((_, i) => !heldOut.has(i)) },
    validation: { ...dataset, rows: rows.filter((_, i) => heldOut.has(i)) },
  };
}
