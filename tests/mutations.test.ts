import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { root } from "./helpers/cli.ts";
import { subjects } from "./helpers/mutation-subjects.ts";

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
  let timer: ReturnType<typeof setTimeout> | undefined;
  createInterface(child.stdout).on("line", (line) => {
    const { name, i, code = "read", crash, maxRssBytes } = JSON.parse(line) as Said; // the process's
    clearTimeout(timer);
    timer = setTimeout(() => {
      problems.push(`the file after ${last} takes longer than ${limitMs} ms`);
      child.kill("SIGKILL");
    }, limitMs);
    if (name === undefined) {
      atFirst = maxRssBytes;
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
