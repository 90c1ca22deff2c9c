import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { referenceFiles } from "../scripts/reference/index.ts";

it("docs/reference and the README's table are what the records say (npm run docs)", async () => {
  for (const [path, text] of Object.entries(await referenceFiles())) {
    const written = await readFile(new URL(`../${path}`, import.meta.url), "utf8").catch(() => "");
    expect(written, `${path}: npm run docs`).toBe(text);
  }
});

it("the table of providers has a row for every family and no empty cell (npm run providers)", async () => {
  const { families } = await import("./helpers/families.ts");
  const text = await readFile(new URL("../docs/providers.md", import.meta.url), "utf8");
  const rows = new Map(
    text.split("\n").flatMap((line) => {
      const [, name = "", ...cells] = line.split("|").map((cell) => cell.trim());
      return cells.length >= 4 ? [[name, cells.slice(0, 4)] as const] : [];
    }),
  );
  for (const name of Object.keys(families)) {
    expect(rows.get(name), `${name}: npm run providers`).toHaveLength(4);
    for (const cell of rows.get(name) ?? []) expect(cell).toMatch(/^yes, |^no: /);
  }
});
