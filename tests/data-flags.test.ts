import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commands } from "../src/cli/index.ts";
import { inputFlags } from "../src/cli/outputs.ts";
import { type Ran, root, runHere } from "./helpers/cli.ts";
import { apart } from "./helpers/writing-commands.ts";

/*
 * A law: every command that reads data renames columns, leaves bad rows out, takes a chat template, and tells all of it.
 */

const model = `${root}assets/quickstart/model`;
let folder: string;
const at = (name: string): string => join(folder, name);

/** Flags that name data. */
const dataFlags = inputFlags.filter(
  (name) =>
    ![
      ...["model", "adapter", "base", "tuned", "baseModel", "config", "chatTemplate"],
      ...["ledger", "federation", "invite", "certificate", "key"],
    ].includes(name),
);
const short = ["--max-steps", "2", "--batch-size", "2", "--rank", "2"];

/** A short call of every command that reads data, on the file given; what it writes goes to `out`. */
const calls: Readonly<Record<string, (data: string, out: string) => readonly string[]>> = {
  tune: (data, out) => ["-m", model, "-d", data, "-o", out, ...short, "--alpha", "4"],
  compare: (data, out) => [
    "-m",
    model,
    "-d",
    data,
    "-o",
    out,
    ...short,
    "--methods",
    "lora",
    "--rates",
    "1e-3",
    "--seeds",
    "0",
    "--validation-data",
    data,
    "--test-data",
    data,
  ],
  continual: (data, out) => ["-m", model, "-d", data, "--then", at("then.jsonl"), "-o", out, ...short, "--alpha", "4"],
  "federate simulate": (data, out) => [
    ...["-m", model, "-d", data, "-o", out, "--split", "files", "--rounds", "1", "--local-steps", "2"],
    ...["--batch-size", "2", "--rank", "2"],
  ],
  diagnose: (data) => ["--attention", "-m", model, "-d", data, "--length", "8", "--texts", "1"],
  plan: (data) => ["-m", model, "-d", data, ...short, "--available", "8"],
  lr: (data, out) => ["-m", model, "-d", data, "--picture", `${out}.svg`, "--steps", "10", "--batch-size", "2"],
  eval: (data) => ["-m", model, "-d", data],
  quantize: (data, out) => [
    "-m",
    model,
    "--calibration",
    data,
    "-o",
    out,
    "--method",
    "rtn",
    "--bits",
    "4",
    "--group-size",
    "32",
  ],
  mend: (data, out) => ["-b", model, "-t", model, "-d", data, "-o", out, "--cache", at("cache")],
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-data-flags-"));
  const rows = (await readFile(`${root}assets/quickstart/train.jsonl`, "utf8")).trim().split("\n").slice(0, 6);
  const [first = ""] = rows;
  const { messages } = JSON.parse(first) as { messages: { role: string; content: string }[] };
  const marked = {
    messages: [...messages.map((turn) => (turn.role === "assistant" ? { ...turn, weight: 0 } : turn)), ...messages],
    note: "nothing reads this",
  };
  const renamed = [...rows, JSON.stringify(marked), '{"messages": 3}'].map((row) =>
    row.replace('"messages"', '"talk"'),
  );
  for (const file of ["odd.jsonl", "then.jsonl"]) await writeFile(at(file), renamed.join("\n"));
  await writeFile(
    at("own.jinja"),
    "{% for m in messages %}~{{ m.role }}~{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}~assistant~{% endif %}",
  );
  await writeFile(at("refuses.jinja"), "{{ raise_exception('this template is used') }}");
});
afterAll(() => rm(folder, { recursive: true, force: true }));

it("the calls above are of all commands that have a flag for data", async () => {
  const reading: string[] = [];
  for (const [name, { load }] of Object.entries(commands)) {
    const command = new Command(name);
    await (await load()).define(command);
    const flags = command.options.map((option) => option.attributeName());
    if (!flags.some((flag) => dataFlags.includes(flag))) continue;
    reading.push(name);
    for (const flag of ["columns", "skipBadRows", "chatTemplate"]) expect(flags, `scion ${name}`).toContain(flag);
  }
  expect(reading.filter((name) => !(name in apart)).sort()).toEqual(Object.keys(calls).sort());
});

describe.each(Object.entries(calls))("scion %s", (name, call) => {
  const run = (out: string, ...flags: readonly string[]): Promise<Ran> =>
    runHere(name, ...call(at("odd.jsonl"), at(`${name}-${out}`)), ...flags);
  const columns = ["--columns", "messages=talk"];

  it("renames columns, leaves bad rows out, and says both, with the turns of weight 0 and keys that nothing reads", async () => {
    const { code, records, said } = await run(
      "done",
      ...columns,
      "--skip-bad-rows",
      "--chat-template",
      at("own.jinja"),
    );
    expect(code).toBe(0);
    const told = records.map(({ data, ...record }) => (data ?? record) as Record<string, unknown>);
    expect(told).toContainEqual(
      expect.objectContaining({
        renamed: { messages: "talk" },
        skipped: expect.arrayContaining([expect.objectContaining({ line: 8, at: at("odd.jsonl") })]),
        ignoredKeys: ["note"],
        warnings: expect.arrayContaining([{ code: "weight-zero", lines: [7] }]),
      }),
    );
    expect(said).toContain("Columns read: talk as messages.");
    expect(said).toMatch(/Rows left out because they cannot be used: \d.*odd\.jsonl, line 8: "messages" is a number/s);
    expect(said).toContain("Ignored keys: note.");
    expect(said).toContain(
      "Conversations with answers of weight 0 (or train false), which are not trained: 1 (line 7)",
    );
  });

  it("names bad rows and columns that are not there, where it is not told to", async () => {
    await expect(run("bad", ...columns)).rejects.toThrow(/line 8: "messages" is a number/);
    await expect(run("none", "--columns", "messages=talks")).rejects.toMatchObject({ code: "unknown-column" });
  });

  it("renders conversations by the template that is given", async () => {
    const flags = [...columns, "--skip-bad-rows", "--chat-template", at("refuses.jinja")];
    await expect(run("template", ...flags)).rejects.toThrow("this template is used");
  });
});

it("flags about data are refused where none is read", async () => {
  const mend = (...flags: readonly string[]): Promise<Ran> =>
    runHere("mend", "-b", model, "-t", model, "-o", at("mended"), ...flags);
  await expect(mend("--columns", "messages=talk", "--base-text", at("odd.jsonl"))).rejects.toThrow("no --data");
  await expect(mend("--skip-bad-rows")).rejects.toThrow("no data is read");
});
