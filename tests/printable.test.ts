import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { drawBits } from "../src/cli/bits-picture.ts";
import { drawComparison } from "../src/cli/compare-picture.ts";
import { drawCurves } from "../src/cli/curves.ts";
import { drawLengths } from "../src/cli/histogram.ts";
import { drawSearch } from "../src/cli/lr.ts";
import { createProgress } from "../src/cli/progress.ts";
import { drawRanks } from "../src/cli/ranks.ts";
import { drawCounts, drawSimilarities, drawSimilarity, drawSpectra, drawSpectrum } from "../src/diagnose/pictures.ts";
import { reportPage } from "../src/diagnose/report-page.ts";
import { printable, printableJson, printableName } from "../src/printable.ts";
import { root, scion } from "./helpers/cli.ts";

/** What would clear a screen, set a window's title, colour text or begin a tag, were it written as it stands. */
const hostile = "\x1b]0;pwned\x07\x1b[2J\x9b31m\x7f\r<script>alert('1')</script> & \"name\"";
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "scion-printable-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("text from files", () => {
  it("keeps line breaks and tabs alone", () => {
    expect(printable(`a\r\n\tb${hostile}`)).toMatch(
      /^a\r\n\tb\\u001b\]0;pwned\\u0007\\u001b\[2J\\u009b31m\\u007f\\u000d</,
    );
    expect(printable(hostile)).not.toMatch(controls);
    expect(printableName("a\nb\tc")).toBe("a\\u000ab\\u0009c");
  });

  it("is the same text for who reads the JSON", () => {
    const value = { [hostile]: [hostile, 1] };
    expect(printableJson(value)).not.toMatch(controls);
    expect(JSON.parse(printableJson(value))).toEqual(value);
  });

  it("is plain on a line of progress", () => {
    const written: string[] = [];
    const progress = createProgress({ write: (text: string) => written.push(text) });
    progress.update(hostile);
    expect(written.join("").trimEnd()).not.toMatch(controls);
  });
});

/** A safetensors file with a tensor and metadata of these names. */
function safetensors(name: string): string {
  const header = JSON.stringify({
    __metadata__: { [name]: name },
    [`${name}\nfake line`]: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
  });
  const bytes = Buffer.concat([Buffer.alloc(8), Buffer.from(header), Buffer.alloc(4)]);
  bytes.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  const path = join(folder, "names.safetensors");
  writeFileSync(path, bytes);
  return path;
}

describe("the command line", () => {
  it("shows names of a file as text, each on its line", async () => {
    const { code, stdout } = await scion(["inspect", safetensors(hostile)]);
    expect(code).toBe(0);
    expect(stdout).not.toMatch(controls);
    expect(stdout).toContain("\\u001b]0;pwned\\u0007");
    expect(stdout).toContain("\\u000afake line  float32 [1]");
    const json = await scion(["inspect", safetensors(hostile), "--json"]);
    expect(`${json.stdout}${json.stderr}`).not.toMatch(controls);
  });

  it("shows them so in errors too", async () => {
    const data = join(folder, "rows.jsonl");
    writeFileSync(data, `${JSON.stringify({ [hostile]: 1 })}\n`);
    for (const flags of [[], ["--json"]]) {
      const { code, stdout, stderr } = await scion(["inspect", data, ...flags]);
      expect(code).toBe(2);
      expect(stdout + stderr).toContain("pwned");
      expect(stdout + stderr).not.toMatch(controls);
    }
    const { stderr } = await scion(["inspect", data, `--${hostile}`]);
    expect(stderr).toContain("pwned");
    expect(stderr).not.toMatch(controls);
  });

  it("writes to the terminal in one place", () => {
    const allowed: Readonly<Record<string, string>> = {
      "terminal.ts": "is that place",
      "main.ts": "watches for a closed pipe",
      "chat.ts": "hands standard error to readline, which edits the person's own line",
    };
    const writers = readdirSync(join(root, "src/cli")).filter((name) =>
      /process\.(stdout|stderr)(?!\.isTTY)|console\./.test(readFileSync(join(root, "src/cli", name), "utf8")),
    );
    expect(writers.filter((name) => allowed[name] === undefined)).toEqual([]);
    const elsewhere = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter(
      (name) =>
        name.endsWith(".ts") &&
        !/^cli\/|\.test\.ts$|\.browser\.ts$/.test(name) &&
        /process\.(stdout|stderr)\.write|console\.\w+\(/.test(readFileSync(join(root, "src", name), "utf8")),
    );
    expect(elsewhere).toEqual([]);
  });
});

const matrix = {
  name: hostile,
  module: hostile,
  shape: [2, 2],
  method: "dense",
  ...{ sigma: [2, 1], sigmaBase: [2, 1], maxCos: [1, 0.5], bound: [1, 0.5], intruders: [1], nearTies: [1], gap: 1 },
  update: { spectral: 1, frobenius: 1, effectiveRank: 1, toGap: 1 },
  similarity: [
    [1, 0],
    [0, 1],
  ],
} as never; // what the pictures read of it
const report = {
  ...{ base: hostile, tuned: hostile, baseHash: "0".repeat(64), k: 2, eps: 0.5, side: "left" },
  ...{ matrices: [matrix], total: 1, perMatrix: 1, fractionWithIntruder: 1 },
  warnings: [{ code: "precision-differs", matrices: [hostile], detail: hostile }],
} as never; // likewise
const run = { folder: hostile, losses: [{ step: 1, loss: 1 }], evaluations: [{ step: 1, loss: 1 }] };
const best = { learningRate: 0.1, measures: { [hostile]: { mean: 1 } }, validationLoss: { mean: 1 } };
const row = { name: hostile, method: hostile, rates: [{ learningRate: 0.1, diverged: 1 }], best };

/** Every picture and page that is written, of names with markup in them. */
const pages: Readonly<Record<string, string>> = {
  drawBits: drawBits(hostile, [{ module: `layers.0.${hostile}`, bits: 2 }]),
  drawComparison: drawComparison(hostile, { rows: [row] } as never),
  drawCurves: drawCurves(hostile, [run as never]),
  drawLengths: drawLengths(hostile, { histogram: [{ upTo: 2, count: 1 }], lengths: {} } as never),
  drawSearch: drawSearch(hostile, {
    points: [{ learningRate: 0.1, loss: 1, smoothed: 1 }],
    suggested: 1,
    lowest: 1,
  } as never),
  drawRanks: drawRanks(hostile, [{ module: hostile, rank: 1, of: 2 }]),
  drawCounts: drawCounts(report),
  drawSimilarities: drawSimilarities([matrix], hostile),
  drawSimilarity: drawSimilarity(matrix),
  drawSpectra: drawSpectra([matrix], hostile),
  drawSpectrum: drawSpectrum(matrix),
  reportPage: reportPage(report),
};

describe("pictures and pages", () => {
  it.each(Object.entries(pages))("%s shows names with markup in them as text", (_name, page) => {
    expect(page).not.toMatch(controls);
    expect(page).toContain("&lt;script&gt;");
    expect(page).not.toContain("<script");
    expect(page).not.toContain("alert('1')");
  });

  it("are all held to it", () => {
    const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter((name) =>
      /\.ts$/.test(name),
    );
    const drawn = files.flatMap((name) => {
      const source = readFileSync(join(root, "src", name), "utf8");
      if (name.endsWith("svg.ts") || !/svgPage\(|<svg |<html/.test(source)) return [];
      return [...source.matchAll(/^export function (\w+)\([\s\S]*?\): string \{/gm)].flatMap(([, own = ""]) =>
        /^draw|Page$/.test(own) ? [own] : [],
      );
    });
    expect(drawn.sort()).toEqual(Object.keys(pages).sort());
  });
});
