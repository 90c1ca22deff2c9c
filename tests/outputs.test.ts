import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../src/cli/index.ts";
import { inputFlags } from "../src/cli/outputs.ts";
import { type ExportFormName, exportForms, TuneError } from "../src/index.ts";
import { root, runHere } from "./helpers/cli.ts";

/*
 * A law of every command that writes and every form of export: nothing is removed or overwritten that Scion did not write,
 * or that the command reads. A command or form without an entry here fails.
 */

/** A command that writes a folder or a file. */
interface Writing {
  /** The flag that names what it writes. */
  readonly flag: "--output" | "--picture";
  /** Everything else; `models/base` and `in/rows.jsonl` are read. */
  readonly args: readonly string[];
  /** Whether it goes on with what is there, or starts anew at each call. */
  readonly goesOn?: boolean;
  /** Its refusal to start anew over its own. */
  readonly exists?: string;
}

const small = "--max-steps 2 --batch-size 2 --max-length 48 --rank 2 --learning-rate 1e-3".split(" ");
const base = ["-m", "in/base"];
const data = ["-d", "in/rows.jsonl"];
const packing = ["--calibration", "in/rows.jsonl", "--method", "rtn", "--bits", "4"];

const writing: Readonly<Record<string, Writing>> = {
  tune: { flag: "--output", args: [...base, ...data, ...small], goesOn: true, exists: "run-exists" },
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
  },
  continual: {
    flag: "--output",
    args: [...base, ...data, "--then", "in/more.jsonl", ...small],
    goesOn: true,
    exists: "run-exists",
  },
  quantize: { flag: "--output", args: [...base, ...packing] },
  lr: { flag: "--picture", args: [...base, ...data, ..."--steps 10 --batch-size 2 --max-length 48".split(" ")] },
  diagnose: { flag: "--output", args: ["-b", "in/base", "-a", "in/run/adapter", "--cache", "cache"], goesOn: true },
  mend: { flag: "--output", args: ["-b", "in/base", "-a", "in/run/adapter", "--cache", "cache"] },
  combine: { flag: "--output", args: [...base, "-a", "one=in/run/adapter", "-a", "two=in/run/adapter"] },
  merge: { flag: "--output", args: [...base, "-a", "in/run/adapter"] },
  export: { flag: "--output", args: [...base, "--to", "safetensors"] },
  runs: { flag: "--picture", args: ["in/run"] },
};
const reading = ["plan", "generate", "chat", "eval", "inspect"];

const forms: Readonly<Record<ExportFormName, readonly string[]>> = {
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

const all: Readonly<Record<string, Writing>> = {
  ...writing,
  ...Object.fromEntries(
    Object.entries(forms).map(([to, args]) => [`export --to ${to}`, { flag: "--output", args: ["--to", to, ...args] }]),
  ),
};

let folder: string;
/** A path of these tests as it is on the disk: `in/base`, or `one=in/run/adapter`. */
const at = (path: string): string => path.replace(/^(\w+=)?(?=(in|cache|out|there|theirs)\b)/, `$1${folder}/`);
const run = async (name: string, output: string, ...more: readonly string[]): Promise<string> => {
  const { flag, args } = all[name] as Writing; // named below
  try {
    const { code } = await runHere(name.split(" ")[0] ?? "", ...args.map(at), flag, at(output), ...more);
    return `ended with ${code}`;
  } catch (error) {
    if (error instanceof TuneError) return error.code;
    throw error;
  }
};

/** Every file below some folders, with its bytes. */
async function filesBelow(...folders: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const files = new Map<string, string>();
  for (const below of folders.map(at)) {
    for (const name of ((await readdir(below, { recursive: true })) as string[]).sort()) {
      const path = join(below, name);
      if ((await stat(path)).isFile()) files.set(path, (await readFile(path)).toString("base64"));
    }
  }
  return files;
}

const made = async (name: string, ...args: readonly string[]): Promise<void> => {
  await runHere(name, ...args.map(at));
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-outputs-"));
  await cp(`${root}assets/quickstart/model`, at("in/base"), { recursive: true });
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).split("\n");
  await writeFile(at("in/rows.jsonl"), rows.slice(0, 24).join("\n"));
  await writeFile(at("in/more.jsonl"), rows.slice(24, 40).join("\n"));
  await made("tune", ...base, ...data, ...small, "-o", "in/run");
  await made(
    "tune",
    ...base,
    ...data,
    ..."--method compacter --max-steps 2 --batch-size 2".split(" "),
    "-o",
    "in/compacter",
  );
  await made("quantize", ...base, ...packing, "-o", "in/packed");
  await made(
    "tune",
    "-m",
    "in/packed",
    ...data,
    ..."--method alpha --max-steps 2 --batch-size 2".split(" "),
    "-o",
    "in/alpha",
  );
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe("the table of commands", () => {
  it("has an entry here for each, and each that writes takes --replace", async () => {
    expect(Object.keys(commands).sort()).toEqual([...Object.keys(writing), ...reading].sort());
    expect(Object.keys(forms).sort()).toEqual(Object.keys(exportForms).sort());
    for (const [name, { load }] of Object.entries(commands)) {
      const command = new Command(name);
      await (await load()).define(command);
      const long = command.options.map((option) => option.long);
      expect(long.includes("--replace"), name).toBe(name in writing);
      if (name in writing) expect(long, name).toContain(writing[name]?.flag);
      else
        expect(
          long.filter((flag) => flag === "--output" || flag === "--picture"),
          name,
        ).toEqual([]);
    }
  });

  it("names no file or folder by a flag that is neither read nor written", async () => {
    for (const [name, { load }] of Object.entries(commands)) {
      const command = new Command(name);
      await (await load()).define(command);
      const paths = command.options.filter(({ flags }) => /<[^>]*(file|folder)[^>]*>/.test(flags));
      for (const option of paths) {
        const known = [...inputFlags, "output", "picture", "cache"].includes(option.attributeName());
        expect(known, `${name} ${option.flags}`).toBe(true);
      }
    }
  });
});

describe.each(Object.keys(all))("%s", (name) => {
  const { flag, goesOn = false, exists } = all[name] as Writing; // its keys
  const writesFolder = flag === "--output";

  it("leaves what somebody else wrote, and what it reads", async () => {
    await rm(at("there"), { recursive: true, force: true });
    await mkdir(at("there/ch1"), { recursive: true });
    await writeFile(at("there/ch1/a.tex"), "text");
    await writeFile(at("there/notes.svg"), "notes");
    const kept = await filesBelow("in", "there");
    if (writesFolder) {
      expect(await run(name, "there")).toBe("output-exists");
      expect(await run(name, "there/notes.svg")).toBe("output-is-file");
      expect(await run(name, "there/notes.svg", "--replace")).toBe("output-is-file");
      for (const input of ["in", "in/base", "in/packed"]) {
        const read = all[name]?.args.some((arg) => arg.includes(input)) === true;
        if (read) expect(await run(name, input, "--replace"), input).toBe("output-is-input");
      }
    } else {
      expect(await run(name, "there/notes.svg")).toBe("output-exists");
      if (name !== "runs") expect(await run(name, "in/rows.jsonl", "--replace")).toBe("output-is-input");
    }
    expect(await filesBelow("in", "there")).toEqual(kept);
  });

  it("goes over its own, leaves what is put beside it, and replaces others' where that is asked for", async () => {
    const out = writesFolder ? "out" : "out.svg";
    await rm(at(out), { recursive: true, force: true });
    expect(await run(name, out)).toBe("ended with 0");
    expect(await run(name, out)).toBe(exists ?? "ended with 0");
    if (!writesFolder) {
      await writeFile(at(out), (await readFile(at(out), "utf8")).replace("<title>", "<title>mine "));
      expect(await run(name, out)).toBe("output-exists");
      expect(await run(name, out, "--replace")).toBe("ended with 0");
      expect(await readFile(at(out), "utf8")).not.toContain("mine");
      return;
    }
    await writeFile(join(at(out), "mine"), "mine");
    expect(await run(name, out)).toBe(exists ?? (goesOn ? "ended with 0" : "output-exists"));
    expect(await readFile(join(at(out), "mine"), "utf8")).toBe("mine");
    expect(await run(name, out, "--replace")).toBe("ended with 0");
    expect(existsSync(join(at(out), "mine"))).toBe(goesOn);
    expect((await readdir(folder)).filter((entry) => /partial|replaced|\.work|\.lock/.test(entry))).toEqual([]);
    await rm(at("theirs"), { recursive: true, force: true });
    await mkdir(at("theirs"));
    await writeFile(at("theirs/mine"), "mine");
    expect(await run(name, "theirs", "--replace")).toBe("ended with 0");
    expect(existsSync(at("theirs/mine"))).toBe(goesOn);
  });
});
