import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { end, start } from "../scripts/providers/table.ts";
import { type Check, checked, type Kind } from "../scripts/reference/checked.ts";
import { checkedByCommand, checkedOptions } from "../scripts/reference/checked-options.ts";
import { definedCommands, referenceFiles } from "../scripts/reference/index.ts";
import { recordNames } from "../scripts/reference/records.ts";
import { supportedModelTypes } from "../src/models/index.ts";

it("docs/reference and the README's table are what the records say (npm run docs)", async () => {
  for (const [path, text] of Object.entries(await referenceFiles())) {
    const written = await readFile(new URL(`../${path}`, import.meta.url), "utf8").catch(() => "");
    expect(written, `${path}: npm run docs`).toBe(text);
  }
});

/** Checks name tests, all of which are there. */
function expectTests(checks: Readonly<Record<string, Check>>): void {
  for (const [name, { tests }] of Object.entries(checks)) {
    expect(tests.length, name).toBeGreaterThan(0);
    for (const path of tests) expect([path, existsSync(new URL(`../${path}`, import.meta.url))]).toEqual([path, true]);
  }
}

it("of every record it is said what checks it, of none that is gone, by tests that are there", () => {
  for (const [kind, names] of Object.entries(recordNames())) {
    const checks = checked[kind as Kind]; // its keys are kinds
    expect(Object.keys(checks).sort(), kind).toEqual([...names].sort());
    expectTests(checks);
  }
});

it("of every option of every command it is said what checks it, of none that is gone", async () => {
  const left = new Set(Object.keys(checkedOptions));
  for (const command of await definedCommands()) {
    const own = checkedByCommand[command.name()] ?? {};
    const names = [
      ...command.options.map((option) => option.attributeName()),
      ...command.registeredArguments.map((argument) => argument.name()),
    ];
    expect(names.filter((name) => own[name] === undefined && checkedOptions[name] === undefined)).toEqual([]);
    expect(
      Object.keys(own).filter((name) => !names.includes(name)),
      command.name(),
    ).toEqual([]);
    for (const name of names) if (own[name] === undefined) left.delete(name);
    expectTests(own);
  }
  expect([...left]).toEqual([]);
  expectTests(checkedOptions);
});

it("docs/providers.md says of every family where it was trained (npm run providers)", async () => {
  const page = await readFile(new URL("../docs/providers.md", import.meta.url), "utf8");
  const rows = page.slice(page.indexOf(start), page.indexOf(end)).matchAll(/^\| `([^`]+)` \|/gm);
  expect([...rows].map(([, modelType]) => modelType)).toEqual(supportedModelTypes);
});
