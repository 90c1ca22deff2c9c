import { mkdir, readFile, writeFile } from "node:fs/promises";
import type { ExportFormName } from "../../src/index.ts";
import { root, runHere } from "./cli.ts";
import { corner } from "./corner.ts";

/*
 * Every command that writes and every form of export, with what it needs to do it in a second. Laws walk these tables: of
 * outputs, of kills, of what is put aside. `in/…` is read; `cache` is a cache.
 */

/** A command that writes a folder or a file. */
export interface Writing {
  /** The flag that names what it writes. */
  readonly flag: "--output" | "--picture";
  /** Everything else; `in/base` and `in/rows.jsonl` are read. */
  readonly args: readonly string[];
  /** Whether it goes on with what is there, or starts anew at each call. */
  readonly goesOn?: boolean;
  /** Its refusal to start anew over its own. */
  readonly exists?: string;
  /** Names of files that tell how long something took: no two runs write the same. */
  readonly timed?: RegExp;
  /** What is added once the output is whole: a kill may leave it away. */
  readonly last?: RegExp;
  /** What a run that was cut off leaves, behind its output's name: with it, `--resume` goes on. */
  readonly resumes?: string;
}

/** Settings of a run that takes a second. */
export const small: readonly string[] =
  "--max-steps 2 --batch-size 2 --max-length 48 --rank 2 --learning-rate 1e-3".split(" ");
/** The model that commands read. */
export const base: readonly string[] = ["-m", "in/base"];
const data = ["-d", "in/rows.jsonl"];
const packing = ["--calibration", "in/rows.jsonl", "--method", "rtn", "--bits", "4"];

/** Every command that writes. */
export const writing: Readonly<Record<string, Writing>> = {
  tune: {
    flag: "--output",
    args: [...base, ...data, ...small],
    goesOn: true,
    exists: "run-exists",
    timed: /tfevents/,
    resumes: "/checkpoint.safetensors",
  },
  compare: {
    flag: "--output",
    args: [
      ...base,
      ...data,
      ..."--methods lora --rates 1e-3 --seeds 0 --validation 2".split(" "),
      ...small.slice(0, -2),
    ],
    goesOn: true,
    exists: "run-exists",
    timed: /comparison\.|outcome\.json/,
    resumes: "/comparison.json",
  },
  continual: {
    flag: "--output",
    args: [...base, ...data, "--then", "in/more.jsonl", ...small],
    goesOn: true,
    exists: "run-exists",
    resumes: "/continual.json",
  },
  "federate simulate": {
    flag: "--output",
    args: [
      ...base,
      ...data,
      ..."--clients 2 --rounds 2 --local-steps 1 --validation 2 --batch-size 2 --max-length 48 --rank 2".split(" "),
    ],
    goesOn: true,
    exists: "run-exists",
    timed: /tfevents/,
    resumes: "/state.json",
  },
  quantize: { flag: "--output", args: [...base, ...packing], resumes: ".work", last: /bits\.svg/ },
  lr: { flag: "--picture", args: [...base, ...data, ..."--steps 10 --batch-size 2 --max-length 48".split(" ")] },
  diagnose: { flag: "--output", args: ["-b", "in/base", "-a", "in/run/adapter", "--cache", "cache"], goesOn: true },
  mend: { flag: "--output", args: ["-b", "in/base", "-a", "in/run/adapter", "--cache", "cache"] },
  combine: { flag: "--output", args: [...base, "-a", "one=in/run/adapter", "-a", "two=in/run/adapter"] },
  merge: { flag: "--output", args: [...base, "-a", "in/run/adapter"] },
  export: { flag: "--output", args: [...base, "--to", "safetensors"] },
  runs: { flag: "--picture", args: ["in/run"] },
};

/** Every command that writes nothing, with what it reads and, where it asks, what it is told. */
export const reading: Readonly<Record<string, { readonly args: readonly string[]; readonly input?: string }>> = {
  plan: { args: [...base, ...data, ..."--batch-size 2 --max-length 48".split(" ")] },
  generate: { args: [...base, "-a", "in/run/adapter", "-p", "Once", "--max-new-tokens", "4"] },
  chat: { args: [...base, "-a", "in/run/adapter", "--max-new-tokens", "4"], input: "Once\n/exit\n" },
  eval: { args: [...base, "-a", "in/run/adapter", ...data, "--no-exact-match"] },
  inspect: { args: ["in/run/adapter"] },
  privacy: { args: "--sampling-rate 0.01 --noise 1.1 --steps 100".split(" ") },
};

/**
 * Commands that talk to a server, or read what a federation left: the test that runs them for real, with what they read up to the
 * point where they connect, and whether they have an output. Laws that run commands to their end leave these to that test.
 */
export const apart: Readonly<
  Record<string, { readonly test: string; readonly args: readonly string[]; readonly writes?: false }>
> = {
  "federate create": {
    test: "tests/federate-nats.test.ts",
    args: ["--run", "shoot", "--address", "nats://127.0.0.1:4222"],
  },
  "federate invite": {
    test: "tests/federate-nats.test.ts",
    args: ["--federation", "in/federation", "--client", "ana"],
  },
  "federate serve": {
    test: "tests/federate-nats.test.ts",
    args: [...base, "--federation", "in/federation", "--clients", "2"],
  },
  "federate join": {
    test: "tests/federate-nats.test.ts",
    args: [...base, "-d", "in/rows.jsonl", "--invite", "in/ana.json"],
  },
  "federate status": {
    test: "tests/federate-status.test.ts",
    args: ["--federation", "in/federation"],
    writes: false,
  },
  "federate stop": { test: "tests/federate-status.test.ts", args: ["--federation", "in/federation"], writes: false },
  "federate report": { test: "tests/federate-status.test.ts", args: ["in/federation"], writes: false },
};

/** Every form of export: what it is made of. */
export const forms: Readonly<Record<ExportFormName, readonly string[]>> = {
  "transformers.js": base,
  safetensors: base,
  gguf: [...base, "--pre-tokenizer", "smollm"],
  peft: [...base, "-a", "in/run/adapter"],
  lora: [...base, "-a", "in/run/adapter"],
  mlx: [...base, "-a", "in/run/adapter"],
  "gguf-lora": [...base, "-a", "in/run/adapter"],
  adapterhub: [...base, "-a", "in/compacter/adapter"],
  scales: ["-m", "in/packed", "-a", "in/alpha/adapter"],
  packed: ["-m", "in/packed", "-a", "in/alpha/adapter"],
};

/** Both tables as one: commands by name, forms as `export --to <form>`. */
export const allWriting: Readonly<Record<string, Writing>> = {
  ...writing,
  ...Object.fromEntries(
    Object.entries(forms).map(([to, args]) => [`export --to ${to}`, { flag: "--output", args: ["--to", to, ...args] }]),
  ),
};

/** The words that call a command of the tables: `["federate", "simulate"]`, or `["export"]`, whose form is among its arguments. */
export function wordsOf(name: string): readonly string[] {
  const words = name.split(" ");
  return name in writing || name in reading || name in apart ? words : words.slice(0, 1);
}

/** A path of the tables as it is on the disk: `in/base`, or `one=in/run/adapter`. */
export function placeIn(folder: string, path: string): string {
  return path.replace(/^(\w+=)?(?=(in|cache|out|there|theirs)\b)/, `$1${folder}/`);
}

/** Make what the commands of the tables read, under `in/` of a folder. */
export async function makeInputs(folder: string): Promise<void> {
  const at = (path: string): string => placeIn(folder, path);
  const made = async (name: string, ...args: readonly string[]): Promise<void> => {
    await runHere(name, ...args.map(at));
  };
  await corner(`${root}assets/quickstart/model`, at("in/base"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  await writeFile(at("in/rows.jsonl"), rows.slice(0, 24).join("\n"));
  await writeFile(at("in/more.jsonl"), rows.slice(24, 40).join("\n"));
  await writeFile(at("in/ana.json"), "{}");
  await mkdir(at("in/federation"));
  const two = (method: string): readonly string[] => ["--method", method, "--max-steps", "2", "--batch-size", "2"];
  await made("tune", ...base, ...data, ...small, "-o", "in/run");
  await made("tune", ...base, ...data, ...two("compacter"), "--reduction", "4", "-o", "in/compacter");
  await made("quantize", ...base, ...packing, "-o", "in/packed");
  await made("tune", "-m", "in/packed", ...data, ...two("alpha"), "-o", "in/alpha");
}
