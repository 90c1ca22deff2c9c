import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { comparisonPage, federationPage } from "../src/api/federation-report.ts";
import { drawBits } from "../src/cli/bits-picture.ts";
import { drawComparison } from "../src/cli/compare-picture.ts";
import { drawCurves } from "../src/cli/curves.ts";
import { drawLengths } from "../src/cli/histogram.ts";
import { drawSearch } from "../src/cli/lr.ts";
import { createProgress } from "../src/cli/progress.ts";
import { drawRanks } from "../src/cli/ranks.ts";
import { attentionPage, drawDegrees, drawHeads } from "../src/diagnose/attention/page.ts";
import { drawCounts, drawSimilarities, drawSimilarity, drawSpectra, drawSpectrum } from "../src/diagnose/pictures.ts";
import { reportPage } from "../src/diagnose/report-page.ts";
import { listing, TuneError } from "../src/errors.ts";
import { readAdapter } from "../src/export/index.ts";
import { memoryStorage } from "../src/io/memory-storage.ts";
import { problemOf, throwProblems } from "../src/io/problems.ts";
import type { Storage } from "../src/io/storage.ts";
import { openModel } from "../src/models/index.ts";
import { printable, printableJson, printableName } from "../src/printable.ts";
import { packError, unpackError } from "../src/runtime/port.ts";
import { readDataset } from "../src/train/data/index.ts";
import { root, scion } from "./helpers/cli.ts";
import { golden } from "./helpers/golden.ts";

/** What would clear a screen, set a window's title, colour text or begin a tag, were it written as it stands. */
const hostile = "\u202egnp\u2066\u2028\x1b]0;pwned\x07\x1b[2J\x9b31m\x7f\r<script>alert('1')</script> & \"name\"";
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "scion-printable-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("text from files", () => {
  it("keeps line breaks and tabs alone", () => {
    expect(printable(`a\r\n\tb${hostile}`)).toMatch(
      /^a\r\n\tb\\u202egnp\\u2066\\u2028\\u001b\]0;pwned\\u0007\\u001b\[2J\\u009b31m\\u007f\\u000d</,
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

describe("errors", () => {
  const name = "x\n  → run this\u202e";
  it("have the lines that are theirs, and no name adds one", () => {
    const error = new TuneError("bad-option", listing(`${name}:`, [name, "b"]), { at: name, fix: ["one", name] });
    const spelt = "x\\u000a  → run this\\u202e";
    expect(error.message.split("\n")).toEqual([`${spelt}:`, `  ${spelt}`, "  b", `  at ${spelt}`, "  → one", spelt]);
    expect(unpackError(packError(error)).message).toBe(error.message);
    const problems = [problemOf(error), { code: "b", what: name }];
    const both = (): void => throwProblems(problems, "here");
    expect(both).toThrow(`2 problems:\n- ${spelt}:\n  ${spelt}\n  b\n- ${spelt}\n  at here`);
  });

  /** Files in which every name is another's, and how they are read. */
  const readers: Readonly<Record<string, () => Promise<unknown>>> = {
    data: () => readDataset(memoryStorage({ "d.jsonl": JSON.stringify({ [name]: name }) }), "d.jsonl"),
    "data of two formats": () =>
      readDataset(memoryStorage({ "d.jsonl": `{"text":"a"}\n${JSON.stringify({ [name]: name })}` }), "d.jsonl"),
    "a table": () => readDataset(memoryStorage({ "d.csv": `prompt,"${name}"\na,b` }), "d.csv"),
    "the name of a file": () => readDataset(memoryStorage({ [`${name}.jsonl`]: "{" }), `${name}.jsonl`),
    "config.json": () => openModel(withJson("m/config.json", { model_type: name, [name]: name }), "m"),
    "a setting of config.json": () => openModel(withJson("m/config.json", { ...config, hidden_act: name }), "m"),
    "adapter_config.json": async () =>
      readAdapter(
        memoryStorage({
          ...files,
          "a/adapter_config.json": JSON.stringify({ peft_type: name, r: 8, target_modules: [name], [name]: name }),
          "a/adapter_model.safetensors": files["m/model.safetensors"],
        }),
        "a",
        await openModel(memoryStorage(files), "m"),
      ),
    "an index": () => openModel(withJson("m/model.safetensors.index.json", { weight_map: { [name]: name } }), "m"),
    tensors: () => openModel(memoryStorage({ ...files, "m/model.safetensors": withTensor(name) }), "m"),
  };
  const config = JSON.parse(readFileSync(golden("llama-tiny/config.json"), "utf8")) as Record<string, unknown>; // a golden
  const files = {
    "m/config.json": JSON.stringify(config),
    "m/model.safetensors": new Uint8Array(readFileSync(golden("llama-tiny/model.safetensors"))),
  };
  /** The model's file with one more tensor. */
  const withTensor = (tensor: string): Uint8Array => {
    const bytes = Buffer.from(files["m/model.safetensors"]);
    const end = 8 + Number(bytes.readBigUInt64LE(0));
    const own = { dtype: "F32", shape: [1], data_offsets: [bytes.length - end, bytes.length - end + 4] };
    const known = JSON.parse(bytes.subarray(8, end).toString()) as Record<string, unknown>; // a golden
    const header = JSON.stringify({ ...known, [tensor]: own });
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
    return new Uint8Array(Buffer.concat([length, Buffer.from(header), bytes.subarray(end), Buffer.alloc(4)]));
  };
  const withJson = (path: string, content: unknown): Storage => {
    const { "m/model.safetensors": weights, ...others } = files;
    const whole = path.endsWith("index.json") ? others : { ...others, "m/model.safetensors": weights };
    return memoryStorage({ ...whole, [path]: JSON.stringify(content) });
  };
  it.each(Object.entries(readers))("say names of %s in their own line", async (_, read) => {
    const error = await read().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(TuneError);
    const { message } = error as TuneError; // it is one
    expect(message).toMatch(/x\\(u000a|n) {2}→ run this\\u202e/); // as it stands in JSON, or in words
    expect(message).not.toMatch(controls);
    expect(message.split("\n").filter((line) => line.startsWith("  → run this"))).toEqual([]);
  });
});

/** The bytes of a safetensors file with a tensor and metadata of these names. */
function tensors(name: string): Uint8Array {
  const header = JSON.stringify({
    __metadata__: { [name]: name },
    [`${name}\nfake line`]: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
  });
  const bytes = Buffer.concat([Buffer.alloc(8), Buffer.from(header), Buffer.alloc(4)]);
  bytes.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  return new Uint8Array(bytes);
}

/** A safetensors file with a tensor and metadata of these names. */
function safetensors(name: string): string {
  const path = join(folder, "names.safetensors");
  writeFileSync(path, tensors(name));
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
const head = {
  ...{
    layer: 0,
    head: 0,
    keyHead: 0,
    headDim: 2,
    gamma: { query: 1, key: 1 },
    range: { plain: 1, centred: 1 },
    bound: 1,
  },
  ...{ centred: { query: false, key: false }, scores: { p50: 1, p90: 1, p99: 1, max: 1 }, degrees: [] },
  verdict: { kind: "exact", why: hostile },
};
const attention = {
  ...{ model: hostile, adapter: hostile, texts: 1, length: 8, threshold: 1, weightError: 0.03, chunk: 64 },
  ...{ heads: [head], qualified: 0, keyHeads: 1 },
} as never; // likewise
const federation = {
  ...{ history: [], base: { [hostile]: 1 }, ended: "finished", why: hostile },
  plan: { strategy: hostile, rounds: 1 },
} as never; // likewise
const federationRow = { name: hostile, rates: [], best: { learningRate: 0.1, measures: {}, atEdge: false } };
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
  drawHeads: drawHeads(attention),
  drawDegrees: drawDegrees(attention),
  attentionPage: attentionPage(attention),
  federationPage: federationPage(federation, { [hostile]: 3 }),
  comparisonPage: comparisonPage({ rows: [federationRow], runs: [], done: 1, total: 1, seeds: [0] } as never),
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
