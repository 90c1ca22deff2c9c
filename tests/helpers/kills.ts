import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createRng } from "../../src/linalg/index.ts";
import { program, root } from "./cli.ts";

/** What killing came to. */
export interface Kills {
  /** Kills by what the process was doing: loading, tuning, saving its result, exporting. */
  readonly byPhase: Readonly<Record<string, number>>;
  /** What was found that should not be. */
  readonly problems: readonly string[];
}

/** How to kill: how often, and where. */
export interface KillOptions {
  readonly kills: number;
  readonly folder: string;
  readonly seed: number;
  readonly onKill?: (done: number, phase: string) => void;
}

const steps = 24;

/**
 * Kill runs of `scion tune` and `scion export` at random moments, resume them, and compare with ones left alone: losses and
 * adapters bit by bit, and folders that are there with those that a whole run leaves.
 */
export async function killAtRandom({ kills, folder, seed, onKill }: KillOptions): Promise<Kills> {
  const rng = createRng(seed, "kills");
  const byPhase: Record<string, number> = {};
  const problems: string[] = [];
  const run = (args: readonly string[]): ChildProcess => {
    return spawn(process.execPath, [program, ...args], { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
  };
  const model = `${root}assets/quickstart/model`;
  const at = (name: string): string => join(folder, name);
  const tune = (name: string): readonly string[] => [
    ...["tune", "-m", model, "-d", `${root}assets/quickstart/heldout.jsonl`, "--max-steps", `${steps}`],
    ...["--batch-size", "4", "--checkpoint-every", "2", "--dropout", "0.1", "--learning-rate", "1e-3"],
    ...["-o", at(name), ...(existsSync(at(`${name}/checkpoint.safetensors`)) ? ["--resume"] : [])],
  ];
  const exporting = (name: string): readonly string[] => [
    ...["export", "-m", model, "-a", at("whole/adapter"), "--to", "transformers.js", "-o", at(name)],
  ];

  const wholeMs: Record<string, number> = {};
  for (const [name, args] of Object.entries({ whole: tune("whole"), web: exporting("web") })) {
    const started = performance.now();
    const { code, stderr } = await ended(run(args));
    if (code !== 0) throw new Error(`the run that was left alone failed: ${stderr}`);
    wholeMs[name] = performance.now() - started;
  }
  const expected = { adapter: digest(at("whole/adapter")), web: digest(at("web")), losses: losses(at("whole")) };

  /** Start, and kill at a random moment up to a little after a whole run takes; true when it was killed. */
  const strike = async (args: readonly string[], longestMs: number, phase: () => string): Promise<boolean> => {
    const child = run(args);
    const over = ended(child);
    const delay = new Promise((resolve) => setTimeout(resolve, rng.uniform() * longestMs * 1.05));
    const first = await Promise.race([over, delay]);
    const doing = phase();
    const killed = first === undefined && child.kill("SIGKILL");
    const { code, stderr } = await over;
    if (!killed || code === 0) {
      if (code !== 0) problems.push(`a run that was not killed ended with ${code}: ${stderr}`);
      return false;
    }
    byPhase[doing] = (byPhase[doing] ?? 0) + 1;
    onKill?.(
      Object.values(byPhase).reduce((sum, count) => sum + count, 0),
      doing,
    );
    return true;
  };
  const struck = (): number => Object.values(byPhase).reduce((sum, count) => sum + count, 0);
  const compare = (what: string, name: string, whole: string): void => {
    if (existsSync(at(name)) && digest(at(name)) !== whole) problems.push(`${what} is not the one of a whole run`);
  };

  for (let round = 0; struck() < kills; round++) {
    const name = `killed-${round}`;
    // Every third kill is one of an export.
    if (round % 3 === 2) {
      await strike(exporting("killed-web"), wholeMs["web"] ?? 0, () => "exporting");
      compare(`an exported folder after kill ${struck()}`, "killed-web", expected.web);
      rmSync(at("killed-web"), { recursive: true, force: true });
      continue;
    }
    const phase = (): string => {
      const done = losses(at(name)).length;
      return done === 0 ? "loading" : done < steps ? "tuning" : "saving";
    };
    for (let tries = 0; tries < 6 && struck() < kills; tries++) {
      if (!(await strike(tune(name), wholeMs["whole"] ?? 0, phase))) break;
      compare(`the adapter after kill ${struck()}`, `${name}/adapter`, expected.adapter);
    }
    const { code, stderr } = await ended(run(tune(name)));
    if (code !== 0) problems.push(`resuming ended with ${code}: ${stderr}`);
    if (losses(at(name)).join() !== expected.losses.join()) problems.push(`round ${round} has other losses`);
    compare(`the adapter of round ${round}`, `${name}/adapter`, expected.adapter);
    if (!existsSync(at(`${name}/adapter`))) problems.push(`round ${round} leaves no adapter`);
    rmSync(at(name), { recursive: true, force: true });
  }
  return { byPhase, problems };
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

/** A hash of a folder's files, by name; what says when or where it was made (the card) is left out. */
function digest(folder: string): string {
  const hash = createHash("sha256");
  for (const name of (readdirSync(folder, { recursive: true }) as string[]).sort()) {
    hash.update(name);
    if (/\.(safetensors|onnx|onnx_data|json)$/.test(name)) hash.update(readFileSync(join(folder, name)));
  }
  return hash.digest("hex");
}
