import { nearest, TuneError } from "../errors.ts";
import type { ConfigJson } from "./config.ts";
import { readGeneral } from "./shared-ledger.ts";

/** Names of labels, in the order of a head's outputs. */
export type Labels = readonly string[];

/**
 * The label names that a `config.json` gives the `count` outputs of a head; `LABEL_0`, … where it says nothing of labels.
 * @throws {TuneError} `bad-config` where it names others than there are.
 */
export function labelsOf(json: ConfigJson, count: number, at: string): Labels {
  const { id2label, num_labels: said } = readGeneral(json);
  const named = namedLabels(json);
  if (named?.length === count) return named;
  if (id2label === undefined && said === undefined) return Array.from({ length: count }, (_, i) => `LABEL_${i}`);
  const whose =
    id2label === undefined
      ? `"num_labels" is ${said}`
      : named === undefined
        ? `The numbers in "id2label" are not 0, 1, …`
        : `"id2label" names ${named.length} ${named.length === 1 ? "label" : "labels"}`;
  throw new TuneError("bad-config", `${whose}, but the head of the files has ${count} outputs.`, {
    at,
    fix: "use the config.json that belongs to these weights, or let the head start anew (new head)",
  });
}

/**
 * The names in `id2label`, in order; undefined when they are not 0, 1, … all of them. Without it `LABEL_0`, …, as many as
 * `num_labels` says.
 */
export function namedLabels(json: ConfigJson): Labels | undefined {
  const { id2label, num_labels: count } = readGeneral(json);
  if (id2label === undefined) {
    return count === undefined ? undefined : Array.from({ length: count }, (_, i) => `LABEL_${i}`);
  }
  const names = Object.entries(id2label).sort(([a], [b]) => Number(a) - Number(b));
  return names.every(([key], i) => Number(key) === i) ? names.map(([, name]) => String(name)) : undefined;
}

/** `id2label` and `label2id` for a `config.json`. */
export function labelConfig(labels: Labels): ConfigJson {
  return {
    id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  };
}

/**
 * The number of a label that data names: by its name, or by the number itself where no label is called so. Undefined
 * when there is none.
 */
export function labelNumber(labels: Labels, label: string): number | undefined {
  const found = labels.indexOf(label);
  if (found >= 0) return found;
  return /^\d+$/.test(label) && Number(label) < labels.length ? Number(label) : undefined;
}

/**
 * Check that a head has the labels of the data.
 * @throws {TuneError} `label-mismatch` naming those that it lacks.
 */
export function checkLabels(labels: Labels, wanted: Labels, at: string): void {
  const missing = wanted.filter((label) => labelNumber(labels, label) === undefined);
  if (missing.length === 0) return;
  const shown = missing.slice(0, 8).map((label) => {
    const [near] = nearest(label, labels, 1);
    return `"${label}"${near ? ` (nearest: "${near}")` : ""}`;
  });
  if (missing.length > shown.length) shown.push(`and ${missing.length - shown.length} more`);
  throw new TuneError(
    "label-mismatch",
    `The head has ${labels.length} labels, the data ${wanted.length}, of which the head lacks ${shown.join(", ")}.`,
    { at, fix: "give data with the model's labels, or let the head start anew with the data's (new head)" },
  );
}
