import { rowTask } from "./examples.ts";
import { checkTexts } from "./fields.ts";
import type { Task, TaskFormat } from "./task.ts";

function turned(source: string, target: string): TaskFormat {
  return {
    name: `${source}/${target}`,
    kind: "target",
    keys: [source, target],
    optionalKeys: [],
    example: `{"${source}": "…", "${target}": "…"}`,
    check: (row) => checkTexts(row, [source, target]),
    make: async (row, { reader }) => {
      const { read } = await reader();
      const [from, to] = [read(String(row[source])), read(String(row[target]))];
      const trained = new Uint8Array(to.inputIds.length).fill(1);
      return { ...from, cut: from.cut || to.cut, against: [{ ...to, trained }] };
    },
  };
}

/** A text from another. */
export const seq2seqLm: Task = rowTask({
  summary: "turn a text into another",
  formats: [
    turned("source", "target"),
    turned("prompt", "completion"),
    turned("text", "summary"),
    turned("question", "answer"),
  ],
});
