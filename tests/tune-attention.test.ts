import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type AttentionPlan,
  diagnoseAttention,
  evaluate,
  type LoadedData,
  type LoadedModel,
  loadData,
  loadModel,
  type RunEvent,
  type TuneOptions,
  tune,
} from "../src/index.ts";
import { nodePlatform } from "../src/runtime/node.ts";
import { root, scion } from "./helpers/cli.ts";

let folder: string;
let model: LoadedModel;
let data: LoadedData;
let plan: AttentionPlan;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "scion-tune-attention-"));
  model = await loadModel(`${root}assets/quickstart/model`, { platform: nodePlatform });
  const text = "Once upon a time a small shoot was grafted onto an old tree, and it grew. ";
  const file = join(folder, "texts.jsonl");
  const rows = [3, 2, 4, 1, 3, 2].map((n, i) => JSON.stringify({ text: `${i}. ${text.repeat(n)}` }));
  await writeFile(file, `${rows.join("\n")}\n`);
  data = await loadData(model, file, { validation: 0 });
  const made = await diagnoseAttention(model, data.train, { length: 48, texts: 1 });
  const layers = [...new Set(made.report.heads.map(({ layer, keyHead }) => `${layer} ${keyHead}`))];
  const heads = layers.map((name) => {
    const [layer = 0, head = 0] = name.split(" ").map(Number);
    return { layer, head, degree: 2 as const, range: 1e6 };
  });
  plan = { ...made.plan, chunk: 32, length: 1000, heads };
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Seen {
  readonly losses: readonly number[];
  readonly events: readonly (RunEvent & { readonly kind: "attention" })[];
}

async function run(options: TuneOptions): Promise<Seen> {
  const losses: number[] = [];
  const events: (RunEvent & { readonly kind: "attention" })[] = [];
  await tune(model, data, {
    ...{ maxSteps: 5, batchSize: 3, learningRate: 0.01, targetModules: ["q_proj", "v_proj"], seed: 4 },
    ...options,
    deviceOptions: { worker: false, threads: 1 },
    onEvent: (event) => {
      if (event.kind === "step") losses.push(event.loss);
      if (event.kind === "attention") events.push(event);
      options.onEvent?.(event);
    },
  });
  return { losses, events };
}

describe("tune with a plan of attention", () => {
  it("trains with other losses than exactly, in nothing else another run", async () => {
    const [exact, planned] = [await run({}), await run({ attention: plan })];
    expect(planned.events).toEqual([{ kind: "attention", step: 0, left: [], remaining: plan.heads.length }]);
    expect(planned.losses).toHaveLength(5);
    expect(planned.losses).not.toEqual(exact.losses);
  });

  it("lets heads go on exactly once their scores outgrow it, and says which", async () => {
    const [first, ...others] = plan.heads;
    const strict = { ...plan, heads: [{ ...(first as (typeof plan.heads)[number]), range: 1e-3 }, ...others] };
    const { events } = await run({ attention: strict });
    expect(events[1]).toMatchObject({ step: 1, remaining: others.length });
    expect(events[1]?.left).toMatchObject([{ layer: first?.layer, head: first?.head, share: expect.any(Number) }]);
    expect(events).toHaveLength(2);
    const all = await run({ attention: { ...plan, heads: plan.heads.map((head) => ({ ...head, range: 1e-3 })) } });
    expect(all.events[1]).toMatchObject({ step: 1, remaining: 0 });
  });

  it("resumes to the same losses, with the heads that had left", async () => {
    const strict = { ...plan, heads: plan.heads.map((head, i) => (i === 0 ? { ...head, range: 1e-3 } : head)) };
    const whole = await run({ attention: strict });
    const output = join(folder, "resumed");
    const stop = new AbortController();
    const before = await run({
      attention: strict,
      output,
      signal: stop.signal,
      onEvent: (event) => {
        if (event.kind === "step" && event.step === 2) stop.abort();
      },
    });
    const after = await run({ attention: strict, output, resume: true });
    expect([...before.losses, ...after.losses]).toEqual(whole.losses);
    expect(after.events).toHaveLength(1);
    const lines = (await readFile(join(output, "metrics.jsonl"), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines[0].measures.attention_share).toBeGreaterThan(1);
    expect(lines.find(({ kind }) => kind === "observation").measures).toEqual({
      polynomial_heads: plan.heads.length - 1,
    });
    await expect(run({ attention: plan, output, resume: true })).rejects.toMatchObject({ code: "resume-mismatch" });
  });

  it("with auto, attends exactly where no head qualifies", async () => {
    const [exact, auto] = [await run({}), await run({ attention: "auto" })];
    expect(auto.events).toEqual([{ kind: "attention", step: 0, left: [], remaining: 0 }]);
    expect(auto.losses).toEqual(exact.losses);
  });

  it("is measured by evaluate as it was while it was tuned, and otherwise exactly", async () => {
    const rows = await loadData(model, join(folder, "texts.jsonl"), { validation: 2 });
    const { adapter, best } = await tune(model, rows, {
      ...{ maxSteps: 3, batchSize: 2, learningRate: 0.01, attention: plan, evaluateEvery: 3 },
      deviceOptions: { worker: false, threads: 1 },
    });
    const measure = (attention: AttentionPlan | "exact") =>
      evaluate(model, rows.validation, { adapter, attention, deviceOptions: { worker: false, threads: 1 } });
    const [planned, exact] = [await measure(plan), await measure("exact")];
    expect(planned.loss).toBeCloseTo(best?.loss ?? Number.NaN, 5);
    expect(planned.attention).toEqual({ polynomial: plan.heads.length, left: [] });
    expect(Math.abs(exact.loss - planned.loss)).toBeGreaterThan(1e-4);
    expect(exact.attention).toBeUndefined();

    const none = await measure({ ...plan, heads: plan.heads.map((head) => ({ ...head, range: 1e-3 })) });
    expect(none.loss).toBeCloseTo(exact.loss, 5);
    expect(none.attention?.polynomial).toBe(0);
    expect(none.attention?.left).toHaveLength(plan.heads.length);
    await expect(measure({ ...plan, length: 4 })).rejects.toMatchObject({ code: "bad-attention-plan" });
    await expect(measure("auto" as never)).rejects.toMatchObject({ code: "bad-option" });
  });

  it.each([
    ["an unknown field", { heavy: 3 }, /"heavy", which no plan has/],
    ["a missing field", { alone: undefined }, /alone of the plan is not true or false/],
    ["heads that are none", { heads: [null] }, /heads\[0\] is no object/],
    ["an unknown field of a head", { heads: [{ layer: 0, head: 0, degree: 2, range: 1, degre: 4 }] }, /"degre", which/],
    ["a degree that is text", { heads: [{ layer: 0, head: 0, degree: "2", range: 1 }] }, /degree of heads\[0\] is not/],
    [
      "centres that are no numbers",
      { heads: [{ layer: 0, head: 0, degree: 2, range: 1, centres: { key: ["a"], value: [] } }] },
      /"value", which[\s\S]*key of the centres of heads\[0\]/,
    ],
  ])("refuses %s", async (_, change, message) => {
    const refused = run({ attention: { ...plan, ...change } as never });
    await expect(refused).rejects.toThrow(message);
    await expect(refused).rejects.toMatchObject({ code: "bad-attention-plan" });
  });

  it("refuses plans that do not fit, with all that is wrong", async () => {
    const [head] = plan.heads as [(typeof plan.heads)[number]];
    const wrong = {
      ...plan,
      ...{ chunk: 30, length: 4, model: "another", adapter: "one" },
      heads: [
        { ...head, layer: 99 },
        { ...head, degree: 3 as never, range: -1, centres: { key: [1] } },
        { ...head, degree: 4 as const },
        { ...head, degree: "2", degre: 4 } as never,
      ],
      heavy: 1,
    };
    const refused = await run({ attention: wrong }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "bad-attention-plan" });
    for (const part of [
      '"heavy", which no plan has',
      '"degre", which no plan has',
      "degree of heads[3] is not a whole number",
      "chunk is 30",
      "a model of another configuration",
      "texts of 4 tokens",
      "the adapter one",
      "no layer 99",
      "degree 3",
      "range -1",
      "58905 features",
      "centre of key",
      "twice",
    ])
      expect(String(refused)).toContain(part);
    await expect(run({ attention: "polynomial" as never })).rejects.toMatchObject({ code: "bad-option" });
    await expect(run({ attentionError: 0.1 })).rejects.toMatchObject({ code: "bad-option" });
  });
});

it("scion tune takes the plan of a file", async () => {
  const path = join(folder, "plan.json");
  await writeFile(path, JSON.stringify({ plan }));
  const [texts, out] = [join(folder, "texts.jsonl"), join(folder, "cli")];
  const args = ["tune", "-m", `${root}assets/quickstart/model`, "-d", texts, "-o", out, "--max-steps", "2"];
  const { code, stdout, stderr } = await scion([...args, "--attention", `polynomial:${path}`]);
  expect(code, stderr).toBe(0);
  expect(stdout).toContain(`${plan.heads.length} key heads attend by a polynomial`);
  expect(JSON.parse(await readFile(join(out, "attention.json"), "utf8"))).toEqual(plan);
  const measured = ["eval", "-m", `${root}assets/quickstart/model`, "-d", texts, "-a", join(out, "adapter")];
  const exact = await scion(measured);
  expect(exact.stdout).toContain("heads that attend by a polynomial");
  const planned = await scion([...measured, "--attention", `polynomial:${join(out, "attention.json")}`]);
  expect(planned.stdout).toContain(`${plan.heads.length} key heads by a polynomial`);
  expect(planned.stdout).not.toContain("attend exactly");
  const [ofExact, ofPlanned] = [exact, planned].map(({ stdout }) => /loss +([\d.]+)/.exec(stdout)?.[1]);
  expect(ofPlanned).not.toBe(ofExact);
  for (const bad of ["linear", `polynomial:${texts}`]) {
    const failed = await scion([...args.with(6, join(folder, "other")), "--attention", bad]);
    expect([failed.code, failed.stderr]).toEqual([2, expect.stringMatching(/bad-option|malformed-json/)]);
  }
});
