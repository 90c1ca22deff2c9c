import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { type BenchPart, parts } from "./federated/parts.ts";

/*
 * What federations cost: the refactor against a dense SVD in the same run, the server's share of a round of 50 clients, and the
 * numbers that travel. Each part is a file of bench/federated/.
 *   npm run bench:federated -- [--only refactor,server,wire] [--json out.json]
 */
const { values } = parseArgs({ options: { only: { type: "string" }, json: { type: "string" } } });
const only = values.only?.split(",");
const unknown = only?.filter((name) => !parts.some((part) => part.name === name)) ?? [];
if (unknown.length > 0)
  throw new Error(`there is no part ${unknown.join(", ")}: ${parts.map(({ name }) => name).join(", ")}`);
const rows: Record<string, unknown> = {};
const missed: string[] = [];
for (const part of parts as readonly BenchPart[]) {
  if (only && !only.includes(part.name)) continue;
  const { table, data, holds } = await part.run();
  console.log(`\n${part.title}\n${table.join("\n")}`);
  rows[part.name] = data;
  if (!holds) missed.push(part.name);
}
if (values.json) await writeFile(values.json, `${JSON.stringify(rows, null, 2)}\n`);
if (missed.length > 0) {
  console.log(`\nBelow what was promised: ${missed.join(", ")}`);
  process.exitCode = 1;
}
