import { readFile, writeFile } from "node:fs/promises";
import { picturesOfReal, reportReal } from "./real-report.ts";
import type { RealLine } from "./runs.ts";

/*
 * The tables of docs/federated.md, and their pictures, from the lines that `npm run experiment:federated-real` appends.
 *   npm run report:federated-real
 */
const heading = "### Tables of real data\n\n";
const text = await readFile("scripts/federated/real.jsonl", "utf8");
const lines = text.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as RealLine]));
const page = await readFile("docs/federated.md", "utf8");
const start = page.indexOf(heading);
const end = page.indexOf("\n## ", start);
if (start < 0 || end < 0) throw new Error(`docs/federated.md has no section "${heading.trim()}"`);
await writeFile("docs/federated.md", `${page.slice(0, start)}${heading}${reportReal(lines)}${page.slice(end)}`);
for (const [name, picture] of picturesOfReal(lines)) await writeFile(`docs/federated/${name}`, picture);
