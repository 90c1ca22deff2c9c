import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../src/cli/index.ts";
import { inputFlags } from "../src/cli/outputs.ts";
import { exportForms, TuneError } from "../src/index.ts";
import { root, runHere, scion } from "./helpers/cli.ts";
import {
  allWriting,
  apart,
  forms,
  makeInputs,
  placeIn,
  reading,
  type Writing,
  writing,
} from "./helpers/writing-commands.ts";

/*
 * A law of every command that writes and every form of export: nothing is removed or overwritten that Scion did not write,
 * or that the command reads. A command or form without an entry here fails.
 */

let folder: string;
const at = (path: string): string => placeIn(folder, path);
const run = async (name: string, output: string, ...more: readonly string[]): Promise<string> => {
  const { flag, args } = allWriting[name] as Writing; // named below
  try {
    const { code } = await runHere(
      name in commands ? name : (name.split(" ")[0] ?? ""),
      ...args.map(at),
      flag,
      at(output),
      ...more,
    );
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

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-outputs-"));
  await makeInputs(folder);
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const writingApart = Object.fromEntries(Object.entries(apart).filter(([, { writes = true }]) => writes));

describe("the table of commands", () => {
  it("has an entry here for each, and each that writes takes --replace", async () => {
    expect(Object.keys(commands).sort()).toEqual(
      [...Object.keys(writing), ...Object.keys(reading), ...Object.keys(apart)].sort(),
    );
    expect(Object.keys(forms).sort()).toEqual(Object.keys(exportForms).sort());
    for (const [name, { load }] of Object.entries(commands)) {
      const command = new Command(name);
      await (await load()).define(command);
      const long = command.options.map((option) => option.long);
      expect(long.includes("--replace"), name).toBe(name in writing || name in writingApart);
      if (name in writingApart) expect(long, name).toContain("--output");
      else if (name in writing) expect(long, name).toContain(writing[name]?.flag);
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

describe.each(Object.entries(writingApart))("%s", (name, { test, args }) => {
  it("leaves what somebody else wrote before it connects; the rest is run by its own test", async () => {
    await rm(at("there"), { recursive: true, force: true });
    await mkdir(at("there/ch1"), { recursive: true });
    await writeFile(at("there/ch1/a.tex"), "text");
    const kept = await filesBelow("in", "there");
    const placed = args.map((arg) => placeIn(folder, arg));
    for (const output of ["there", "there/ch1/a.tex"]) {
      const { code, stdout } = await scion([name, ...placed, "--output", at(output), "--json"]);
      expect([code, stdout]).toEqual([2, expect.stringMatching(/"output-exists"|"output-is-file"/)]);
    }
    expect(await filesBelow("in", "there")).toEqual(kept);
    expect(existsSync(join(root, test))).toBe(true);
  });
});

describe.each(Object.keys(allWriting))("%s", (name) => {
  const { flag, goesOn = false, exists } = allWriting[name] as Writing; // its keys
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
        const read = allWriting[name]?.args.some((arg) => arg.includes(input)) === true;
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

/** The folders of Scion's that a command reads. */
function foldersOf(args: readonly string[]): readonly string[] {
  const named = args
    .map((arg) => arg.replace(/^\w+=/, ""))
    .filter((arg) => arg.startsWith("in/") && !/\.\w+$/.test(arg));
  return [...new Set(named)];
}

const readers: readonly (readonly [string, string, readonly string[]])[] = [
  ...Object.entries({ ...writing, ...reading }).map(([name, { args }]) => [name, args] as const),
  ...(["peft", "adapterhub", "scales"] as const).map((name) => [name, forms[name]] as const), // three kinds of adapters
].flatMap(([name, args]) => foldersOf(args).map((place) => [name, place, args] as const));

describe("a folder whose writer was killed between two names", () => {
  it.each(readers)("is found by %s: %s", async (name, place, args) => {
    const aside = `${at(place)}.scion-replaced`;
    const kept = await filesBelow(place);
    await mkdir(aside);
    await writeFile(join(aside, ".scion.json"), JSON.stringify({ version: 1, kind: "replaced", files: {} }));
    await rename(at(place), join(aside, "old"));
    const { flag } = writing[name] ?? { flag: "--output" };
    const out = flag === "--output" ? "found" : "found.svg";
    const target = name in reading ? [] : [flag, join(folder, out)];
    const command = name in forms ? ["export", "--to", name] : [name];
    const { code, stderr } = await scion([...command, ...args.map(at), ...target], reading[name]?.input);
    expect(code, stderr).toBe(0);
    for (const [file, content] of kept) expect((await readFile(file)).toString("base64"), file).toBe(content);
    expect(existsSync(aside)).toBe(false);
    await rm(join(folder, out), { recursive: true, force: true });
  });
});
