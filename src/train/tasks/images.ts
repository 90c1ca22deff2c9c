import { TuneError } from "../../errors.ts";
import { joinPath, type Storage } from "../../io/storage.ts";
import { isImage } from "../data/image.ts";
import type { Dataset, RowFormat } from "../data/index.ts";
import { judgeLabels } from "./classify.ts";
import { readPlainRows, rowTask } from "./examples.ts";
import { checkLabel, checkTexts } from "./fields.ts";
import type { Task, TaskFormat } from "./task.ts";

/** An image by its path from the data file's folder, with a label. */
const labelledImage: TaskFormat = {
  name: "image/label",
  kind: "label",
  keys: ["image", "label"],
  optionalKeys: [],
  example: '{"image": "photos/1.jpg", "label": "…"}',
  check: (row) => checkTexts(row, ["image"]) ?? checkLabel(row, "label"),
  labels: (row) => [String(row["label"])],
  make: async (row, { image, labelNumber }) => ({
    inputIds: await image(String(row["image"])),
    answers: [labelNumber(String(row["label"]))],
  }),
};

/** Which of some labels an image has. */
export const imageClassification: Task = {
  ...rowTask({
    summary: "say which of some labels an image has",
    formats: [labelledImage],
    read: async (storage, source, options) => {
      const path = typeof source === "string" ? source : "path" in source ? source.path : undefined;
      return path !== undefined && (await storage.list(path)).length > 0
        ? readFolder(storage, path)
        : readPlainRows(storage, source, [labelledImage], options);
    },
    judge: judgeLabels,
  }),
  show: async ({ answers }, { model }) => `an image → ${model.labels?.[answers?.[0] ?? 0] ?? "?"}`,
};

/** A folder of folders: each is called as its images' label. */
async function readFolder(storage: Storage, path: string): Promise<Dataset<RowFormat>> {
  const rows = [];
  for (const folder of (await storage.list(path)).filter((name) => name.endsWith("/")).sort()) {
    const label = folder.slice(0, -1);
    for (const name of [...(await storage.list(joinPath(path, label)))].filter(isImage).sort()) {
      rows.push({ line: rows.length + 1, value: { image: joinPath(label, name), label } });
    }
  }
  if (rows.length === 0) {
    throw new TuneError("empty-data", "There is no image in the folder's folders.", {
      at: path,
      fix: "put the images of each label into a folder called as the label, or name them in a .jsonl file",
    });
  }
  return { at: `${path}/`, format: labelledImage, rows, ignoredKeys: [] };
}
