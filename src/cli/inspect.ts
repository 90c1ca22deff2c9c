import type { Command } from "commander";
import type { Output } from "./output.ts";

/** `scion inspect` */
export function define(command: Command): void {
  command
    .description("Say what a file or folder holds")
    .argument("<path>", "folder of a model, an adapter or a run, .safetensors, .onnx, .jsonl or .txt")
    .addHelpText(
      "after",
      "\nExamples:\n  $ scion inspect ./model\n  $ scion inspect runs/tune/checkpoint.safetensors --json",
    );
}

/** Run it. */
export async function run(_flags: object, output: Output, [path = ""]: readonly string[]): Promise<number> {
  const { inspect } = await import("../index.ts");
  const { nodePlatform } = await import("../runtime/node.ts");
  const found = await inspect(nodePlatform.storage, path);
  output.say(`${path}: ${found.kind}`);
  for (const [label, value] of found.facts) output.say(`  ${label.padEnd(18)}${value}`);
  if (found.rows.length > 0) output.say("");
  for (const row of found.rows) output.say(`  ${row}`);
  output.record({ path, kind: found.kind, ...Object.fromEntries(found.facts), rows: found.rows });
  return 0;
}
