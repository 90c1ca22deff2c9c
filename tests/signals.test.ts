import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../src/cli/index.ts";
import { startScion } from "./helpers/cli.ts";
import { listens, untilListening } from "./helpers/signals.ts";
import { allWriting, apart, makeInputs, placeIn, reading, writing } from "./helpers/writing-commands.ts";

/*
 * A law of every command: Ctrl-C, SIGTERM and SIGHUP end it with 130, twice at once, and say nothing of an abort. A command
 * without an entry in the tables fails.
 */

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-signals-"));
  await makeInputs(folder);
}, 120_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

const ways = {
  SIGINT: ["SIGINT"],
  SIGTERM: ["SIGTERM"],
  SIGHUP: ["SIGHUP"],
  "SIGINT twice": ["SIGINT", "SIGINT"],
} as const;
type Way = keyof typeof ways;

/** What makes a command go on for as long as it takes to stop it, where two seconds may not be enough. */
const longer: Readonly<Record<string, readonly string[]>> = {
  tune: ["--max-steps", "5000"],
  compare: ["--max-steps", "5000"],
  continual: ["--max-steps", "5000"],
  "federate simulate": ["--rounds", "5000"],
  lr: ["--steps", "5000"],
  generate: ["--max-new-tokens", "200", "--repetition-penalty", "1.5"],
};

/** Commands that talk to a server are stopped in the test that runs one. */
const names = Object.keys(commands).filter((name) => !(name in apart));
const cases = names.flatMap((name, i): readonly (readonly [string, Way])[] => {
  const all = Object.keys(ways) as readonly Way[];
  // Those that a person waits at have every way; the others Ctrl-C and one of the rest, in turn.
  const tried = ["tune", "generate", "chat", "eval", "quantize"].includes(name)
    ? all
    : all.filter((_, way) => way === 0 || way === 1 + (i % 3));
  return tried.map((way) => [name, way] as const);
});

const known = new Map<string, number>();

/** Start a command and do something after a while, not before it listens for signals; how it ended. */
async function start(
  name: string,
  output: string,
  afterMs: number,
  act: (child: ReturnType<typeof startScion>["child"]) => void,
) {
  const entry = allWriting[name] ?? reading[name];
  if (entry === undefined) throw new Error(`${name} has no entry in the tables`);
  const args = [...entry.args, ...(longer[name] ?? [])].map((arg) => placeIn(folder, arg));
  const cache = args.map((arg) => (arg.endsWith("/cache") ? join(output, "../cache") : arg));
  const target = name in writing ? [(allWriting[name] as { flag: string }).flag, output] : [];
  const started = performance.now();
  const { child, ended } = startScion(name, ...cache, ...target);
  if (name === "chat") child.stdin?.write("Once upon a time\n");
  const timer = setTimeout(async () => {
    await untilListening(child);
    act(child);
  }, afterMs);
  const { code, stderr } = await ended;
  clearTimeout(timer);
  return { code, stderr, signal: child.signalCode, ms: performance.now() - started };
}

describe.each(cases)("%s", (name, way) => {
  it(`ends with 130 at ${way}, and tells of no abort`, async () => {
    const endless = name in longer || name === "chat";
    // How long it takes, once: signals come in the middle of that.
    if (!endless && !known.has(name)) {
      await mkdir(join(folder, "whole"), { recursive: true });
      const { code, stderr, ms } = await start(name, join(folder, `whole/${name}${svgOf(name)}`), 1e6, () => undefined);
      expect(code, stderr).toBe(0);
      known.set(name, ms);
    }
    const wholeMs = known.get(name) ?? 4000;
    let share = 0.6;
    for (let tries = 0; ; tries++) {
      const place = join(folder, `${name}-${way.replace(" ", "-")}-${tries}`);
      await mkdir(place);
      let sentAt = 0;
      let listened: boolean | undefined;
      const { code, stderr, signal, ms } = await start(
        name,
        join(place, `out${svgOf(name)}`),
        share * wholeMs,
        (child) => {
          sentAt = performance.now();
          listened = listens(child);
          const [first, second] = ways[way];
          child.kill(first);
          if (second) setTimeout(() => child.kill(second), 20);
        },
      );
      const took = performance.now() - sentAt;
      // Where the system does not tell whether it listens, it was not up yet; where it does, handlers go when all is done.
      const [first] = ways[way];
      const early = listened === undefined && signal !== null && stderr === "" && ms < 1500;
      const late = code === 0 || listened === false || (listened && first !== "SIGINT" && signal === first);
      if ((early || late) && tries < 6) {
        share = early ? share * 1.3 : tries < 3 ? share * 0.7 : 0; // at last as soon as it listens
        continue;
      }
      // A computation that goes on for longer is ended by the signal itself, which a shell tells as 130 too.
      expect([signal === "SIGINT" ? 130 : code, stderr]).toEqual([130, stderr]);
      expect(stderr).not.toMatch(/abort|terminat|Error|closed|bug/);
      expect(took).toBeLessThan(way === "SIGINT twice" ? 4000 : 15_000);
      // What was being written is gone, or whole; locks are free.
      if (signal === null) {
        const left = (await readdir(place)).filter((entry) => /partial|replaced|\.lock/.test(entry));
        expect(left).toEqual([]);
      }
      return;
    }
  }, 90_000);
});

// A device that was opened after all others were closed took the process down with an abort.
it.skipIf(process.platform !== "linux").each(names)(
  "%s ends with 130 at a signal before it has begun",
  async (name) => {
    for (let tries = 0; ; tries++) {
      const place = join(folder, `${name}-at-once-${tries}`);
      await mkdir(place);
      const { code, stderr } = await start(name, join(place, `out${svgOf(name)}`), 0, (child) => child.kill("SIGTERM"));
      if (code === 0 && tries < 6) continue; // it was done before this process came to it
      expect([code, stderr]).toEqual([130, stderr]);
      expect(stderr).not.toMatch(/abort|terminat|Error|closed|bug/);
      expect((await readdir(place)).filter((entry) => /partial|replaced|\.lock/.test(entry))).toEqual([]);
      return;
    }
  },
  90_000,
);

function svgOf(name: string): string {
  return writing[name]?.flag === "--picture" ? ".svg" : "";
}
