import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { putBack } from "../../src/io/outputs/index.ts";
import { createRng } from "../../src/linalg/index.ts";
import { nodeStorage } from "../../src/runtime/node-storage.ts";
import { program, root } from "./cli.ts";
import { allWriting, makeInputs, placeIn, wordsOf } from "./writing-commands.ts";

/** What killing came to. */
export interface Kills {
  /** Kills by what the process was doing: loading, tuning, saving its result, exporting, replacing a folder. */
  readonly byPhase: Readonly<Record<string, number>>;
  /** Kills by command and form. */
  readonly byCommand: Readonly<Record<string, number>>;
  /** What was found that should not be. */
  readonly problems: readonly string[];
}

/** How to kill: how often, and where. */
export interface KillOptions {
  readonly kills: number;
  readonly folder: string;
  readonly seed: number;
  readonly onKill?: (done: number, phase: string, command: string) => void;
}

const steps = 24;

/** Folders: their commands in the order in which they are killed. The pictures are files, written by one rename. */
const commands = Object.keys(allWriting);

/**
 * Kill runs of `scion tune` and of every command and form of export that writes, in turn, at random moments; resume them or
 * run them again, and compare with ones left alone: losses and files bit by bit. Every second output replaces an earlier
 * one, and every second kill waits until something is being written.
 */
export async function killAtRandom({ kills, folder, seed, onKill }: KillOptions): Promise<Kills> {
  const rng = createRng(seed, "kills");
  const byPhase: Record<string, number> = {};
  const byCommand: Record<string, number> = {};
  const problems: string[] = [];
  const at = (name: string): string => join(folder, name);
  const run = (args: readonly string[], place = ""): ChildProcess =>
    spawn(process.execPath, [resolve(root, program), ...args], { cwd: at(place), stdio: ["ignore", "ignore", "pipe"] });
  await makeInputs(folder);

  /** Run to the end, and say how long it took. */
  const whole = async (args: readonly string[], place?: string): Promise<number> => {
    const started = performance.now();
    const { code, stderr } = await ended(run(args, place));
    if (code !== 0) throw new Error(`${args.join(" ")}, left alone, failed: ${stderr}`);
    return performance.now() - started;
  };

  interface Moment {
    readonly longestMs: number;
    readonly place?: string;
    /** Count from when this is true, if it ever is. */
    readonly from?: () => boolean;
  }
  const struck = (): number => Object.values(byPhase).reduce((sum, count) => sum + count, 0);
  /** Start, and kill at a random moment up to a little after a whole run takes; true when it was killed. */
  const strike = async (
    name: string,
    args: readonly string[],
    { longestMs, place, from }: Moment,
    phase: () => string,
  ): Promise<boolean> => {
    const child = run(args, place);
    const over = ended(child);
    let isOver = false;
    void over.then(() => {
      isOver = true;
    });
    while (from && !isOver && !from()) await new Promise((next) => setImmediate(next));
    const delay = new Promise((next) => setTimeout(next, rng.uniform() * longestMs * (from ? 0.2 : 1.05)));
    if (!isOver) await Promise.race([over, delay]);
    const doing = phase();
    const killed = !isOver && child.kill("SIGKILL");
    const { code, stderr } = await over;
    if (!killed || code === 0) {
      if (code !== 0) problems.push(`${name}, which was not killed, ended with ${code}: ${stderr}`);
      return false;
    }
    byPhase[doing] = (byPhase[doing] ?? 0) + 1;
    byCommand[name] = (byCommand[name] ?? 0) + 1;
    onKill?.(struck(), doing, name);
    return true;
  };
  const compare = (
    what: string,
    path: string,
    expected: Digest,
    { timed, last }: { readonly timed?: RegExp | undefined; readonly last?: RegExp | undefined } = {},
  ): void => {
    const found = existsSync(path) ? differing(digest(path, timed), expected) : [];
    // A file that is half written has a name of its own, which nobody takes for content.
    const differs = found.filter((name) => !last || !(last.test(name) || name.endsWith(".partial")));
    if (differs.length > 0) problems.push(`${what} is not the one of a whole run: ${differs.join(", ")}`);
  };

  const tune = (name: string): readonly string[] => [
    ...["tune", "-m", "in/base", "-d", `${root}assets/quickstart/heldout.jsonl`, "--max-steps", `${steps}`],
    ...["--batch-size", "4", "--checkpoint-every", "2", "--dropout", "0.1", "--learning-rate", "1e-3"],
    ...["-o", name, ...(existsSync(at(`${name}/checkpoint.safetensors`)) ? ["--resume"] : [])],
  ];
  const tuneMs = await whole(tune("whole"));
  const tuned = { adapter: digest(at("whole/adapter")), losses: losses(at("whole")) };

  /** A run that is killed several times, each time going on from the last checkpoint. */
  const killTuning = async (round: number): Promise<void> => {
    const name = `killed-${round}`;
    const done = (): number => losses(at(name)).length;
    const phase = (): string => (done() === 0 ? "loading" : done() < steps ? "tuning" : "saving");
    for (let tries = 0; tries < 4 && struck() < kills; tries++) {
      const late = tries % 2 === 1 && done() < steps;
      const moment = { longestMs: tuneMs, ...(late ? { from: () => phase() === "saving" } : {}) };
      if (!(await strike("tune, resumed", tune(name), moment, phase))) break;
      compare(`the adapter after kill ${struck()}`, at(`${name}/adapter`), tuned.adapter);
    }
    const { code, stderr } = await ended(run(tune(name)));
    if (code !== 0) problems.push(`resuming ended with ${code}: ${stderr}`);
    if (losses(at(name)).join() !== tuned.losses.join()) problems.push(`round ${round} has other losses`);
    compare(`the adapter of round ${round}`, at(`${name}/adapter`), tuned.adapter);
    if (!existsSync(at(`${name}/adapter`))) problems.push(`round ${round} leaves no adapter`);
    rmSync(at(name), { recursive: true, force: true });
  };

  const known = new Map<string, { readonly digest: Digest; readonly ms: number }>();
  /** A command that is killed once: what was there is there, or what it writes; run again, it leaves what it should. */
  const killWriting = async (name: string, round: number): Promise<void> => {
    const { flag, args, goesOn, timed, last, resumes } = allWriting[name] as (typeof allWriting)[string]; // its keys
    const output = flag === "--picture" ? "out.svg" : "out"; // pictures and cards tell it: it is called the same each time
    const out = (place: string): string => join(place, output);
    const command = (place: string): readonly string[] => {
      // Each has a cache and an output of its own: nothing is warm that a kill should find cold.
      const own = args.map((arg) => (arg === "cache" ? arg : placeIn(folder, arg)));
      const started = resumes !== undefined && existsSync(at(`${out(place)}${resumes}`));
      return [...wordsOf(name), ...own, flag, output, ...(started ? ["--resume"] : [])];
    };
    const place = `place-${round}`;
    const left = `left-${commands.indexOf(name)}`;
    if (!known.has(name)) {
      mkdirSync(at(left));
      const ms = await whole(command(left), left);
      known.set(name, { digest: digest(at(out(left)), timed), ms });
    }
    const { digest: expected, ms } = known.get(name) as { digest: Digest; ms: number }; // set above
    mkdirSync(at(place));
    const replaces = goesOn !== true && round % 2 === 0;
    if (replaces) cpSync(at(out(left)), at(out(place)), { recursive: true });
    const beside = (kind: string): boolean =>
      existsSync(at(place)) && readdirSync(at(place)).some((entry) => entry.includes(kind));
    const writes = (): boolean => beside("partial") || (goesOn === true && existsSync(at(out(place))));
    const phase = (): string =>
      beside("scion-replaced") ? "replacing" : !writes() ? "loading" : goesOn ? "tuning" : "exporting";
    const moment = { longestMs: ms, place, ...(rng.uniform() < 0.6 ? { from: writes } : {}) };
    if (await strike(name, command(place), moment, phase)) {
      const what = `${name} after kill ${struck()}`;
      await putBack(nodeStorage, at(out(place)));
      if (replaces && !existsSync(at(out(place)))) problems.push(`${what} has lost what was there`);
      if (!goesOn) compare(what, at(out(place)), expected, { timed, last });
      const { code, stderr } = await ended(run(command(place), place));
      if (code !== 0) problems.push(`${what}, run again, ended with ${code}: ${stderr}`);
    }
    if (!existsSync(at(out(place)))) problems.push(`${name} leaves nothing in round ${round}`);
    compare(`${name} of round ${round}`, at(out(place)), expected, { timed });
    const strays = filesBelow(at(place)).filter((file) =>
      /\.partial$|scion-partial|scion-replaced|\.lock|\.work/.test(file),
    );
    if (strays.length > 0) problems.push(`${name} of round ${round} leaves ${strays.join(", ")}`);
    rmSync(at(place), { recursive: true, force: true });
  };

  let turn = Math.floor(rng.uniform() * commands.length);
  for (let round = 0; struck() < kills; round++) {
    if (round % 4 === 0) await killTuning(round);
    else await killWriting(commands[turn++ % commands.length] ?? "", round);
  }
  return { byPhase, byCommand, problems };
}

async function ended(child: ChildProcess): Promise<{ readonly code: number | null; readonly stderr: string }> {
  let stderr = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { code, stderr };
}

/** The lines of a run's metrics that are whole. */
function losses(run: string): readonly string[] {
  const path = join(run, "metrics.jsonl");
  if (!existsSync(path)) return [];
  const text = readFileSync(path, "utf8");
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "");
}

/** Every file below a folder, or the file. */
function filesBelow(path: string): readonly string[] {
  if (!statSync(path).isDirectory()) return [path];
  return (readdirSync(path, { recursive: true }) as string[])
    .map((name) => join(path, name))
    .filter((file) => !statSync(file).isDirectory())
    .sort();
}

/** The hashes of a folder's files, by name; what says when or where it was made (cards, the manifest with their hashes) is left out. */
function digest(path: string, timed?: RegExp): Digest {
  const hashes: Record<string, string> = {};
  for (const file of filesBelow(path)) {
    const name = file.slice(dirname(path).length);
    if (timed?.test(name)) continue;
    const told = ["README.md", ".scion.json"].includes(basename(file));
    hashes[name.replace(/^.[^/]*/, "")] = told ? "" : createHash("sha256").update(readFileSync(file)).digest("hex");
  }
  return hashes;
}

type Digest = Readonly<Record<string, string>>;

/** Files that one folder has otherwise than another. */
function differing(a: Digest, b: Digest): readonly string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((name) => a[name] !== b[name]);
}
