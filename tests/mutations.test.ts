import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { root } from "./helpers/cli.ts";
import { nameOf, subjects, withoutSubject } from "./helpers/mutation-subjects.ts";

/*
 * Damaged files: every one is read as what it says, or refused with a coded error, by a process whose memory and time are
 * limited. MUTATIONS=10000 tries as many, MUTATION_SEED=20261130 others.
 */
const mutations = Number(process.env["MUTATIONS"] ?? 600);
/** The heap of the process, how much more than for whole files it may take in all, and the longest that a file may take. */
const [heapMegabytes, grownBytes, limitMs] = [256, 512e6, 30_000];

/** What the process says of a file; at first, that it has read the whole ones. */
interface Said {
  readonly name?: string;
  readonly i?: number;
  readonly code?: string;
  readonly crash?: string;
  readonly maxRssBytes: number;
  /** Files of src that read while whole files were read, and names of the files that were read. */
  readonly sources?: readonly string[];
  readonly names?: readonly string[];
}

/** Calls that read from a storage. */
const reads =
  /\b\w*[sS]torage\.read\(|\b(readText|readBytes|readJsonObject|openSafetensors|readSealed|wholeFile|filePieces)\(/;

/** Files of src that read from a storage: who adds one, or a file that is read, gives it a subject. */
function readers(): readonly string[] {
  const src = join(root, "src");
  return readdirSync(src, { recursive: true, encoding: "utf8" }).filter(
    (name) =>
      /\.ts$/.test(name) &&
      !/\.(test|browser|conformance)\.ts$/.test(name) &&
      reads.test(readFileSync(join(src, name), "utf8")),
  );
}

it(`${mutations} damaged files are refused with a code, or read as what they say`, async () => {
  const names = Object.keys(subjects);
  const share = Math.ceil(mutations / names.length);
  const script = fileURLToPath(new URL("helpers/mutation-worker.ts", import.meta.url));
  const limits = [`--max-old-space-size=${heapMegabytes}`, "--import", "tsx"];
  const child = spawn(process.execPath, [...limits, script, String(share), process.env["MUTATION_SEED"] ?? "7"], {
    cwd: root,
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const outcomes = new Map(names.map((name) => [name, new Map<string, number>()]));
  const problems: string[] = [];
  let [last, atFirst] = ["none", Number.POSITIVE_INFINITY];
  let whole: Said | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  createInterface(child.stdout).on("line", (line) => {
    const said = JSON.parse(line) as Said; // the process's
    const { name, i, code = "read", crash, maxRssBytes } = said;
    clearTimeout(timer);
    timer = setTimeout(() => {
      problems.push(`the file after ${last} takes longer than ${limitMs} ms`);
      child.kill("SIGKILL");
    }, limitMs);
    if (name === undefined) {
      atFirst = maxRssBytes;
      whole = said;
      return;
    }
    last = `${name} ${i}`;
    if (crash !== undefined) problems.push(`${last}: ${crash}`);
    if (maxRssBytes - atFirst > grownBytes) {
      problems.push(`${last} took ${maxRssBytes - atFirst} bytes`);
      child.kill("SIGKILL");
    }
    const own = outcomes.get(name);
    own?.set(code, (own.get(code) ?? 0) + 1);
  });
  const ended = await new Promise((resolve) => child.on("close", resolve));
  clearTimeout(timer);
  if (mutations > 1000) for (const [name, own] of outcomes) console.log(name, JSON.stringify(Object.fromEntries(own)));
  expect(whole, stderr).toBeDefined();
  const known = new Set(whole?.sources);
  expect(
    readers().filter((source) => !known.has(source) && withoutSubject[source] === undefined),
    "read from a storage and have no subject in tests/helpers/mutation-subjects.ts",
  ).toEqual([]);
  expect(
    Object.keys(withoutSubject).filter((source) => !readers().includes(source)),
    "read nothing any more",
  ).toEqual([]);
  const damagedNames = new Set(Object.values(subjects).map(({ path }) => nameOf(path)));
  expect(
    whole?.names?.filter((name) => !damagedNames.has(name)),
    "are read by a subject and damaged by none",
  ).toEqual([]);
  expect(problems).toEqual([]);
  expect(ended, `after ${last}: ${stderr}`).toBe(0);
  for (const [name, own] of outcomes) {
    expect(
      [...own.values()].reduce((sum, count) => sum + count, 0),
      name,
    ).toBe(share);
    const refused = [...own.keys()].some((code) => code !== "read");
    expect(refused || subjects[name]?.forgiving === true, name).toBe(true);
  }
}, 3_600_000);
