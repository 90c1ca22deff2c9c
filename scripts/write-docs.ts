import { writeFile } from "node:fs/promises";
import { referenceFiles } from "./reference/index.ts";

/** Write docs/reference and the README's table anew from the records: npm run docs */
for (const [path, text] of Object.entries(await referenceFiles())) {
  await writeFile(new URL(`../${path}`, import.meta.url), text);
}
