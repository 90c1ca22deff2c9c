import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { picturesOfReal, reportReal } from "../scripts/federated/real-report.ts";
import { keyOf, type RealLine } from "../scripts/federated/runs.ts";
import { reportToy } from "../scripts/federated/toy-report.ts";

const read = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");
const page = read("docs/federated.md");

describe("docs/federated.md", () => {
  it("has the toy's tables as its results give them, and what must hold there does", () => {
    const known = JSON.parse(read("docs/federated/toy.json")) as Record<string, number | null>;
    const report = reportToy(known, { seeds: [0, 1, 2, 3], rates: [0.1, 0.5], epsilons: [Infinity, 6, 3, 1] });
    expect(report.split("\n").filter((line) => !page.includes(line))).toEqual([]);
    expect(report.match(/^- \([a-d]\).*; holds\.$/gm)).toHaveLength(4);
  });

  it("has the tables and pictures of real data as the lines of the runs give them, each run once", () => {
    const lines = read("scripts/federated/real.jsonl")
      .split("\n")
      .flatMap((line) => (line === "" ? [] : [JSON.parse(line) as RealLine]));
    expect(new Set(lines.map(keyOf)).size).toBe(lines.length);
    expect(page.includes(reportReal(lines)), "run `npm run report:federated-real`").toBe(true);
    for (const [name, picture] of picturesOfReal(lines)) {
      expect(existsSync(new URL(`../docs/federated/${name}`, import.meta.url)), name).toBe(true);
      expect(read(`docs/federated/${name}`) === picture, `${name} is of these lines`).toBe(true);
    }
  });
});
