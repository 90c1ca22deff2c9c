import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { golden } from "../../tests/helpers/golden.ts";
import { TuneError } from "../errors.ts";
import { memoryStorage } from "../io/memory-storage.ts";
import { openModel } from "./model.ts";
import { findArchitecture, supportedModelTypes } from "./table.ts";

/** A small model of every family. */
const folders: readonly string[] = [
  ...["llama-tiny", "gpt2-tiny", "retsim-tiny"],
  ..."gemma gemma2 gemma3_text gpt_neox mistral phi3 qwen2 qwen3 smollm3".split(" ").map((name) => `families/${name}`),
  ..."bert-sequence roberta-sequence deberta-sequence t5 vit-image".split(" ").map((name) => `encoders/${name}`),
];

interface Subject {
  readonly json: Readonly<Record<string, unknown>>;
  readonly open: (json: object) => Promise<unknown>;
}

async function subject(name: string): Promise<Subject> {
  const folder = golden(name);
  const json = JSON.parse(readFileSync(`${folder}/config.json`, "utf8"));
  const weights = readFileSync(`${folder}/model.safetensors`);
  return {
    json,
    open: (changed) =>
      openModel(memoryStorage({ "m/config.json": JSON.stringify(changed), "m/model.safetensors": weights }), "m"),
  };
}

/** What opening throws, and how long it takes. */
async function outcome(open: () => Promise<unknown>): Promise<{ readonly error: unknown; readonly elapsedMs: number }> {
  const start = performance.now();
  const error = await open().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return { error, elapsedMs: performance.now() - start };
}

it("has a model of every family", async () => {
  const types = folders.map((name) => JSON.parse(readFileSync(`${golden(name)}/config.json`, "utf8")).model_type);
  expect([...new Set(types)].sort()).toEqual([...supportedModelTypes].sort());
});

describe.each(folders)("sizes in the config.json of %s", (name) => {
  let own: Subject;
  beforeAll(async () => {
    own = await subject(name);
  });

  it("out of proportion, or one more than they are, end in one coded error or change nothing; soon, and in little memory", async () => {
    const { sizeKeys } = await findArchitecture(own.json, name);
    await own.open(own.json);
    for (const [key, value] of Object.entries(own.json)) {
      if (typeof value !== "number") continue;
      for (const other of [0, value + 1, 1e9, Number.MAX_SAFE_INTEGER]) {
        const { error, elapsedMs } = await outcome(() => own.open({ ...own.json, [key]: other }));
        if (error !== undefined) expect(error, `${key} ${other}`).toBeInstanceOf(TuneError);
        expect(elapsedMs, `${key} ${other}`).toBeLessThan(5000); // some milliseconds where the machine is idle
        if (other < 1e9 || sizeKeys[key] === undefined) continue;
        expect(error, key).toMatchObject({
          code: "weights-mismatch",
          message: expect.stringContaining(`"${key}" is ${other}`),
        });
      }
    }
  });

  it("are all named where several are wrong", async () => {
    const { sizeKeys } = await findArchitecture(own.json, name);
    const keys = Object.keys(sizeKeys).filter((key) => typeof own.json[key] === "number");
    const { error } = await outcome(() =>
      own.open({ ...own.json, ...Object.fromEntries(keys.map((key) => [key, 1e9])) }),
    );
    for (const key of keys) expect((error as Error).message).toContain(`"${key}" is 1000000000`);
    expect(keys.length).toBeGreaterThan(3);
  });
});

describe("a billion layers", () => {
  const path = fileURLToPath(new URL("../../../shared/cases/faults/config-layers1e9.json", import.meta.url));

  it.skipIf(!existsSync(path))("of ../shared/cases/faults end in one error, with what else does not fit", async () => {
    const { open } = await subject("llama-tiny");
    const { error } = await outcome(() => open(JSON.parse(readFileSync(path, "utf8"))));
    expect(error).toMatchObject({
      code: "weights-mismatch",
      message: expect.stringContaining("1000000000, but the files hold"),
    });
  });

  it("beside a wrong width, both are said", async () => {
    const { open, json } = await subject("llama-tiny");
    const wrong = { ...json, num_hidden_layers: 1e9, intermediate_size: Number(json["intermediate_size"]) - 1 };
    const { error } = await outcome(() => open(wrong));
    const { message } = error as Error;
    expect(message).toContain('"num_hidden_layers" is 1000000000, but the files hold 2 layers');
    expect(message).toContain("model.layers.*.mlp.gate_proj.weight is [");
    expect(message.split("\n").length).toBeLessThan(12);
  });
});
