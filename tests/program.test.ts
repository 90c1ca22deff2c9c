import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { exitCodes, reportFailure } from "../src/cli/failure.ts";
import { commands } from "../src/cli/index.ts";
import { commandHabits, runProgram } from "../src/cli/program.ts";
import { TuneError } from "../src/errors.ts";
import { habits, inCode } from "../src/habits.ts";
import { checkTuning, objectives, schemes } from "../src/index.ts";
import { jsonLines, root } from "./helpers/cli.ts";

/*
 * Laws of the command line, walked over its table of commands: every error is JSON where that is asked for, has its exit
 * code, and names what is meant by a flag that is none.
 */
const model = `${root}assets/quickstart/model`;
const names = Object.keys(commands);

interface Told {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Run a command line in this process. */
async function told(...args: readonly string[]): Promise<Told> {
  const written = { stdout: "", stderr: "" };
  const spies = (["stdout", "stderr"] as const).map((stream) =>
    vi.spyOn(process[stream], "write").mockImplementation((text) => {
      written[stream] += String(text);
      return true;
    }),
  );
  try {
    const [name = "", ...rest] = args; // a command may have two words
    return { code: await runProgram(name in commands ? [...name.split(" "), ...rest] : args), ...written };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** The error that a command line tells as JSON at its end. */
async function failure(
  ...args: readonly string[]
): Promise<{ code: string; message: string; at?: string; fix?: string }> {
  const { code, stdout } = await told(...args, "--json");
  const lines = jsonLines(stdout); // what came before it, too, is JSON
  expect([args.join(" "), code, Object.keys(lines.at(-1) ?? {})]).toEqual([
    args.join(" "),
    exitCodes.badInput,
    ["error"],
  ]);
  return (lines.at(-1) as { error: { code: string; message: string } }).error;
}

async function defined(name: string): Promise<Command> {
  const command = new Command(name).option("--json", "");
  await (await commands[name]?.load())?.define(command);
  return command;
}

/** What a command cannot do without, as a command line that names nothing that is there. */
function needed(command: Command): string[] {
  return [
    ...command.options
      .filter(({ mandatory }) => mandatory)
      .flatMap(({ long, argChoices, flags }) => [
        long ?? "",
        argChoices?.[0] ?? (flags.includes("<n>") ? "1" : "/nowhere/at/all"),
      ]),
    ...command.registeredArguments.filter(({ required }) => required).map(() => "/nowhere/at/all"),
  ];
}

describe.each(names)("scion %s", (name) => {
  it("names every flag that is none, and what is meant", async () => {
    const command = await defined(name);
    const { code, message } = await failure(name, ...needed(command), "--no-such-thing", "1", "--jsn");
    expect(code).toBe("bad-option");
    expect(message).toMatch(/no option --no-such-thing/);
    expect(message).toContain("no option --jsn (did you mean --json?)");
    const long = command.options.find((option) => option.long?.slice(2).includes("-") && !option.negate)?.long;
    if (long === undefined) return;
    const underscored = `--${long.slice(2).replaceAll("-", "_")}`;
    expect((await failure(name, underscored, "1")).message).toContain(`${underscored} (did you mean ${long}?)`);
  });

  it("names everything that is missing at once", async () => {
    const command = await defined(name);
    const missing = command.options.filter(({ mandatory }) => mandatory);
    if (missing.length === 0) return;
    const { code, message } = await failure(name);
    expect(code).toBe("bad-option");
    for (const { flags } of missing) expect(message).toContain(flags);
  });

  it("refuses values that are no numbers, none of the words, or missing", async () => {
    const command = await defined(name);
    for (const option of command.options) {
      const line = [name, ...needed(command), option.long ?? ""];
      if (option.argChoices) expect((await failure(...line, "none-of-them")).code).toBe("bad-option");
      else if (option.flags.includes("<n>")) {
        expect((await failure(...line, "many")).message).toMatch(/not a|neither a/);
        expect((await failure(...line)).code).toBe("bad-option");
      }
    }
  });

  it("tells what is not there as JSON, before anything else is done", async () => {
    const command = await defined(name);
    const { code } = await failure(name, ...needed(command), ...(name === "runs" ? ["/nowhere/at/all"] : []));
    const expected = ["model-not-found", "file-not-found", "bad-option", "bad-calibration", "unknown-content"];
    expect([...expected, "no-adapter-form"]).toContain(code);
  });

  it("looks at where it runs and writes before it reads", async () => {
    const command = await defined(name);
    const has = (long: string): boolean => command.options.some((option) => option.long === long);
    if (has("--device")) {
      expect((await failure(name, ...needed(command), "--device", "abacus")).code).toBe("unknown-provider");
      expect((await failure(name, ...needed(command), "--threads", "0")).message).toContain("0 threads");
    }
    if (has("--output")) {
      const line = needed(command).map((arg, i, all) => (all[i - 1] === "--output" ? `${root}package.json/x` : arg));
      const more = line.includes("--output") ? [] : ["--output", `${root}package.json/x`];
      expect((await failure(name, ...line, ...more)).code).toBe("write-failed");
    }
  });
});

describe("scion", () => {
  it("names the command that is meant", async () => {
    expect(await failure("tnue")).toMatchObject({ code: "unknown-command", message: expect.stringContaining("tune") });
    for (const [habit, target] of Object.entries(commandHabits)) {
      expect(names).toContain(target);
      expect(names).not.toContain(habit);
      expect((await failure(habit)).message).toContain(`did you mean ${target}?`);
    }
    expect((await failure()).message).toContain("No command is named");
  });

  it("shows help and its version with exit code 0", async () => {
    expect(await told("--help")).toMatchObject({ code: 0, stdout: expect.stringContaining("Exit codes") });
    expect(await told("tune", "--help")).toMatchObject({ code: 0, stdout: expect.stringContaining("--rank") });
    expect(await told("--version")).toMatchObject({ code: 0, stdout: expect.stringMatching(/^\d/) });
  });

  it("has an exit code for each kind of failure, and tells bugs as JSON too", () => {
    const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    try {
      const codes = [
        new Error("an invariant"),
        new TuneError("bad-option", "one"),
        new TuneError("not-finite-loss", "two"),
        new TuneError("interrupted", "three"),
      ].map((error) => reportFailure(error, true));
      expect(codes).toEqual([1, 2, 3, 130]);
      expect(JSON.parse(String(write.mock.calls[0]?.[0]))).toMatchObject({ error: { code: "unexpected" } });
    } finally {
      write.mockRestore();
    }
  });

  it("takes no option of a single dash for another with a value", async () => {
    expect((await failure("tune", "-data", "rows.jsonl")).message).toContain("-data (did you mean --data?)");
    expect((await failure("tune", "-lr", "1e-3")).message).toContain("-lr (did you mean --learning-rate?)");
    expect((await failure("generate", "-ngl", "99")).message).toContain("-ngl (did you mean --device?)");
  });
});

describe("what other tools call an option", () => {
  it("stands for an option that some command or function has", async () => {
    const known = new Set(["validationPath", "dtypes"]); // options in code alone
    for (const name of names) for (const option of (await defined(name)).options) known.add(option.attributeName());
    for (const [habit, targets] of Object.entries(habits)) {
      expect([habit, inCode(habit)]).toEqual([habit, habit]);
      for (const target of targets) expect([habit, target === "replace" || known.has(target)]).toEqual([habit, true]);
    }
  });

  it.each([
    ["--lr", "--learning-rate"],
    ["--lora-alpha", "--alpha"],
    ["--lora-r", "--rank"],
    ["--lora-rank", "--rank"],
    ["--num-train-epochs", "--epochs"],
    ["--per-device-train-batch-size", "--batch-size"],
    ["--per_device_train_batch_size", "--batch-size"],
    ["--batch", "--batch-size"],
    ["--iters", "--max-steps"],
    ["--target_modules", "--target-modules"],
    ["--load-in-4bit", "--base-weights"],
    ["--gradient-accumulation-steps", "--accumulation-steps"],
    ["--warmup-ratio", "--warmup"],
    ["--max-seq-length", "--max-length"],
    ["--learningRate", "--learning-rate"],
    ["--batchsize", "--batch-size"],
    ["--output-dir", "--output"],
  ])("tune %s is meant as %s", async (habit, flag) => {
    expect((await failure("tune", "-m", "m", "-d", "d", habit, "1")).message).toContain(
      `${habit} (did you mean ${flag}?)`,
    );
  });

  it("is named in a file of options too", async () => {
    const folder = await mkdtemp(join(tmpdir(), "scion-program-"));
    const file = join(folder, "run.yaml");
    await writeFile(file, `model: ${model}\nlora_alpha: 3\nlr: 1\nnum_train_epochs: 1\n`);
    const { message } = await failure("tune", "--config", file);
    expect(message).toMatch(
      /"lora_alpha" \(nearest: alpha\)[\s\S]*"lr" \(nearest: learningRate\)[\s\S]*nearest: epochs/,
    );
    await rm(folder, { recursive: true });
  });
});

describe("an option of an objective needs the objective, before a model or data is looked for", () => {
  const records = [...objectives.values()];
  const options = [...new Set(records.flatMap(({ fields }) => Object.keys(fields)))];
  const strangers = records.flatMap(({ name, fields }) =>
    options.filter((option) => !Object.hasOwn(fields, option)).map((option) => ({ name, option })),
  );
  const takersOf = (option: string): readonly string[] =>
    records.filter(({ fields }) => Object.hasOwn(fields, option)).map(({ name }) => name);
  const tuning: Readonly<Record<string, readonly string[]>> = {
    ...{ tune: [], plan: [], lr: [], compare: ["--methods", "lora"], continual: ["--then", "nowhere2.jsonl"] },
    ...{ "federate simulate": [], "federate serve": ["--federation", "nowhere", "--clients", "1"] },
  };
  const flagOf = (option: string): string => `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

  it.each(Object.keys(tuning).flatMap((command) => options.map((option) => [command, option] as const)))(
    "scion %s without --objective: %s",
    async (command, option) => {
      const asked = [
        command,
        "-m",
        "nowhere",
        "-d",
        "nowhere.jsonl",
        ...(tuning[command] ?? []),
        flagOf(option),
        "0.3",
      ];
      const { code, message } = await failure(...asked);
      expect(code).toBe("bad-option");
      expect(message).toContain(
        `a run without --objective has no option ${flagOf(option)}: it is one of ${takersOf(option).join(", ")}`,
      );
    },
  );

  it.each(strangers)("--objective $name: $option", async ({ name, option }) => {
    const { code, message } = await failure(
      ...["tune", "-m", "nowhere", "-d", "nowhere.jsonl", "--objective", name, flagOf(option), "0.3"],
    );
    expect(code).toBe("bad-option");
    expect(message).toContain(`--objective ${name} has no option ${flagOf(option)}`);
    expect(() => checkTuning({ objective: name, objectiveOptions: { [option]: 0.3 } })).toThrow(
      `${name} has no option "${option}", which ${takersOf(option).join(" or ")} takes`,
    );
  });

  it("commands that take options of objectives are all here", async () => {
    const [option = ""] = options;
    const taking = [];
    for (const name of names)
      if ((await defined(name)).options.some(({ long }) => long === flagOf(option))) taking.push(name);
    expect(taking.sort()).toEqual(Object.keys(tuning).sort());
  });

  it.each(options)("in code, without an objective: %s", (option) => {
    expect(() => checkTuning({ objectiveOptions: { [option]: 0.3 } })).toThrow(
      `no objective is named, so nothing takes the option "${option}", which ${takersOf(option).join(" or ")} takes`,
    );
  });
});

describe("options that would do nothing are refused", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "scion-idle-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));
  const tune = ["tune", "-m", model, "-d", `${root}assets/quickstart/heldout.jsonl`];
  const generate = ["generate", "-m", model, "-p", "set a timer"];
  const quantize = ["quantize", "-m", model, "--calibration", "none.jsonl"];
  const evaluate = ["eval", "-m", model, "-d", `${root}assets/quickstart/heldout.jsonl`];

  it.each([
    [[...tune, "--method", "full", "--rank", "4"], /--method full has no option --rank: it is one of lora, dora, paca/],
    [[...tune, "--optimizer", "sgd", "--beta1", "0.5"], /--optimizer sgd has no option --beta1: it is one of adamw/],
    [[...tune, "--objective", "causal-lm", "--beta", "0.1"], /no option --beta: it is one of dpo, ipo/],
    [[...tune, "--beta", "0.1"], /no option --beta: it is one of dpo, ipo/],
    [[...tune, "--method", "paca", "--column-list", "1"], /columnList .* would do nothing: select is random/],
    [[...tune, "--optimizer", "sgd", "--momentum", "0", "--nesterov"], /nesterov .* momentum is 0/],
    [[...tune, "--epochs", "2", "--max-steps", "2"], /epochs is 2, which would do nothing: maxSteps is 2/],
    [[...tune, "--evaluate-every", "2"], /evaluateEvery: no rows are held back/],
    [[...tune, "--patience", "2"], /patience: no rows are held back/],
    [[...tune, "--validation", "2", "--validation-data", "x.jsonl"], /validation is 2, which would do nothing/],
    [[...tune, "--gradient-checkpointing", "--memory", "fast"], /--gradient-checkpointing is --memory small/],
    [[...tune, "--method", "full", "--target-modules", "q_proj"], /targetModules: full trains every weight/],
    [[...tune, "--method", "compacter", "--target-modules", "q_proj"], /targetModules: compacter stands behind/],
    [[...tune, "--method", "full", "--base-weights", "f16"], /baseWeights: full trains every weight/],
    [[...tune, "--rank", "100000"], /rank 100000 exceeds/],
    [[...tune, "--target-modules", "q_prj"], /"q_prj" \(nearest: q_proj/],
    [["compare", ...tune.slice(1), "--methods", "full", "--rank", "4"], /no option --rank/],
    [["lr", ...tune.slice(1), "--learning-rate", "1"], /no option --learning-rate/],
    [[...generate, "--top-p", "0.9"], /--top-p would do nothing: --temperature is 0/],
    [[...generate, "--seed", "3"], /--seed would do nothing/],
    [[...generate, "--temperature", "-1"], /temperature is -1/],
    [[...generate, "--use", "one"], /--use would do nothing/],
    [[...generate, "--raw", "--system", "kind"], /--system would do nothing/],
    [[...generate, "--lookups", "fast"], /lookups would do nothing: the model is not packed/],
    [["chat", "-m", model, "--min-p", "0.1"], /--min-p would do nothing/],
    [
      [...quantize, "-o", "x", "--method", "rtn", "--rounds", "3"],
      /--method rtn has no option --rounds: it is one of shiftadd, bcq/,
    ],
    [[...quantize, "-o", "x", "--method", "rtn", "--no-activation-order"], /no option --activation-order/],
    [[...quantize, "-o", "x", "--method", "rtn", "--variant", "lat"], /--variant would do nothing/],
    [[...quantize, "-o", "x", "--tune-steps", "3"], /--tune-steps would do nothing/],
    [[...quantize, "-o", "x", "--evaluation", "y"], /--evaluation would do nothing/],
    [[...quantize, "-o", "x", "--allocate", "rule"], /--allocate would do nothing/],
    [["quantize", "-m", model, "-o", "x"], /Calibration text is needed: shiftadd fits weights to the inputs/],
    [["quantize", "-m", model, "-o", "x", "--method", "bcq", "--compensate"], /Calibration text is needed: bcq/],
    [["quantize", "-m", model, "-o", "x", "--method", "rtn", "--bits", "mixed:2.2"], /text is needed: mixed bits/],
    [["quantize", "-m", model, "-o", "x", "--method", "rtn", "--tune-scales"], /text is needed: scales are tuned/],
    [["quantize", "-m", model, "-o", "x", "--compare"], /text is needed: ways are compared/],
    [["quantize", "-m", model, "-o", "x", "--method", "rtn", "--max-length", "9"], /--max-length would do nothing/],
    [["quantize", "-m", model, "-o", "x", "--method", "rtn", "--threads", "2"], /--threads would do nothing/],
    [[...quantize, "-o", "x", "--compare", "--method", "rtn"], /--method would do nothing: --compare takes every way/],
    [[...evaluate, "--base-model", model], /--base-model would do nothing/],
    [[...evaluate, "--show", "2", "--no-exact-match"], /--show would do nothing/],
    [["export", "-m", model, "--to", "safetensors", "-o", "x", "--dtype", "fp16"], /holds no numbers as fp16/],
    [
      ["export", "-m", model, "--to", "safetensors", "-o", "x", "--pre-tokenizer", "llama"],
      /does not take preTokenizer: gguf does/,
    ],
    [["export", "-m", model, "--to", "gguf", "-o", "x", "--threads", "2"], /--threads would do nothing/],
    [["mend", "-b", model, "-a", "x", "-o", "x", "--rank", "same"], /--rank would do nothing/],
    [["diagnose", "-b", model], /with an adapter or with a tuned model/],
    [["diagnose", "-b", "a.safetensors", "-t", "b.safetensors", "--fused"], /--fused would do nothing/],
    [["combine", "-m", model, "-a", "x", "-o", "x", "--device", "cpu"], /no option --device/],
  ])("%j", async (args, message) => {
    expect(
      (
        await failure(
          ...args,
          ...(["tune", "compare"].includes(args[0] ?? "") ? ["-o", join(folder, `run${args.join("").length}`)] : []),
        )
      ).message,
    ).toMatch(message);
  });

  it("walks every option of every scheme and objective: who does not take it says who does", async () => {
    for (const [records, line] of [
      [schemes, (other: string) => [...quantize, "-o", join(folder, "packed"), "--method", other]],
      [objectives, (other: string) => [...tune, "-o", join(folder, "run"), "--objective", other]],
    ] as const) {
      for (const { name, fields } of records.values()) {
        for (const [option, field] of Object.entries(fields)) {
          const stranger = [...records.values()].find((record) => !(option in record.fields));
          if (stranger === undefined) continue;
          const dashed = `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
          const value = field.kind === "boolean" ? [] : [String(field.initial)];
          const flag = field.kind === "boolean" && field.initial === true ? dashed.replace("--", "--no-") : dashed;
          const { message } = await failure(...line(stranger.name), flag, ...value);
          expect(message).toContain(`${stranger.name} has no option ${dashed}: it is one of`);
          expect(message).toContain(name);
        }
      }
    }
  });
});
