import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { referenceFiles } from "../scripts/reference/index.ts";

it("docs/reference and the README's table are what the records say (npm run docs)", async () => {
  for (const [path, text] of Object.entries(await referenceFiles())) {
    const written = await readFile(new URL(`../${path}`, import.meta.url), "utf8").catch(() => "");
    expect(written, `${path}: npm run docs`).toBe(text);
  }
});
