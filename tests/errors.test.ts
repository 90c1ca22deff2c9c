import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

it("docs/errors.md explains every error code, and no other", () => {
  const sources = readdirSync(`${root}src`, { recursive: true, encoding: "utf8" }).filter(
    (name) => name.endsWith(".ts") && !/\.(test|browser|conformance)\.ts$/.test(name),
  );
  const text = sources.map((name) => readFileSync(`${root}src/${name}`, "utf8")).join("\n");
  const thrown = new Set([...text.matchAll(/TuneError\(\s*"([a-z][a-z0-9-]+)"/g)].map(([, code]) => code));
  const docs = readFileSync(`${root}docs/errors.md`, "utf8");
  const explained = [...docs.matchAll(/^\| `([a-z0-9-]+)` \|/gm)].map(([, code = ""]) => code);
  expect([...thrown].filter((code) => !explained.includes(code ?? ""))).toEqual([]);
  expect(explained.filter((code) => !text.includes(`"${code}"`))).toEqual([]);
  expect(new Set(explained).size).toBe(explained.length);
});
