import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { TuneError } from "../src/errors.ts";
import { activationNames } from "../src/models/activations.ts";
import type { ConfigWarning, Family, Notes } from "../src/models/index.ts";
import { findArchitecture, supportedModelTypes } from "../src/models/index.ts";
import { ropeLedgers } from "../src/models/rope.ts";
import { readGeneral } from "../src/models/shared-ledger.ts";
import { golden } from "./helpers/golden.ts";

/** What transformers knows, as `golden/make_config_keys.py` has written it down. */
interface Known {
  readonly shared: readonly string[];
  readonly rotary: readonly string[];
  readonly activations: readonly string[];
  readonly rope: Readonly<Record<string, readonly string[]>>;
  readonly models: Readonly<
    Record<
      string,
      {
        readonly defaults: Readonly<Record<string, unknown>>;
        readonly aliases: Readonly<Record<string, string>>;
        readonly read: readonly string[];
      }
    >
  >;
}
const known: Known = JSON.parse(readFileSync(golden("config-keys.json"), "utf8"));

type Json = Readonly<Record<string, unknown>>;

/** What a family cannot be without, though transformers can. */
const needed: Readonly<Record<string, Json>> = { "deberta-v2": { relative_attention: true } };

const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64, rope_theta: 10000 };
const llama3 = { ...yarn, rope_type: "llama3", low_freq_factor: 1, high_freq_factor: 4 };
const longrope = (pairs: number): Json => {
  const factors = Array.from({ length: pairs }, () => 1);
  return { rope_type: "longrope", short_factor: factors, long_factor: factors };
};

/** Configurations that bring a family to read keys it reads in some files alone. */
const samples: Readonly<Record<string, readonly Json[]>> = {
  llama: [
    ...[yarn, llama3, longrope(64), { type: "linear", factor: 2 }, { rope_type: "dynamic", factor: 2 }].map(
      (rope_scaling) => ({ rope_scaling }),
    ),
  ],
  qwen2: [{ use_sliding_window: true }],
  qwen3: [{ use_sliding_window: true }],
};

/** A configuration as text, without what tells how it was said. */
function comparable(config: unknown): string {
  return JSON.stringify(config, (key, value) => (key === "settings" ? undefined : value));
}

function codeAndMessage(act: () => unknown): [string, string] {
  try {
    act();
  } catch (error) {
    if (error instanceof TuneError) return [error.code, error.message];
    throw error;
  }
  return ["", ""];
}

describe.each(supportedModelTypes)("the ledger of %s", (modelType) => {
  const base = needed[modelType] ?? {};
  const find = (): Promise<Family> => findArchitecture({ model_type: modelType }, "");
  const model = known.models[modelType];

  test("has every key that transformers' class knows", async () => {
    const { ledger } = await find();
    if (model === undefined) return expect((await find()).inTransformers).toBe(false);
    const rotary = "rope_parameters" in model.defaults ? known.rotary : [];
    const keys = [
      ...known.shared,
      ...rotary,
      ...Object.keys(model.defaults),
      ...Object.keys(model.aliases),
      ...model.read,
    ];
    expect(keys.filter((key) => !Object.hasOwn(ledger, key))).toEqual([]);
    for (const [key, of] of Object.entries(model.aliases)) expect(ledger[key]).toEqual({ kind: "alias", of });
  });

  test("has transformers' defaults: a file with all of them says what an empty one does", async () => {
    const { configure } = await find();
    const warnings: ConfigWarning[] = [];
    const all = configure({ ...model?.defaults, ...base }, { unknown: (warning) => void warnings.push(warning) });
    expect(comparable(all)).toBe(comparable(configure(base)));
    expect(warnings).toEqual([]);
  });

  test("says that a key is used only where it is read", async () => {
    const { ledger, configure } = await find();
    const read = new Set<string>();
    const notes: Notes = { read: (key) => void read.add(key) };
    for (const sample of [{}, ...(samples[modelType] ?? [])]) configure({ ...base, ...sample }, notes);
    readGeneral({}, notes).architectures;
    for (const key of ["problem_type", "id2label", "num_labels", "initializer_range"] as const)
      readGeneral({}, notes)[key];
    const used = Object.entries(ledger).flatMap(([key, { kind }]) => (kind === "used" ? [key] : []));
    expect(used.filter((key) => !read.has(key))).toEqual([]);
  });

  test("refuses every value that is not supported, by the key's name", async () => {
    const { ledger, configure } = await find();
    for (const [key, entry] of Object.entries(ledger)) {
      if (entry.kind === "only") {
        const [code, message] = codeAndMessage(() => configure({ ...base, [key]: "nonsense" }));
        expect([key, code]).toEqual([key, "bad-config"]);
        expect(message).toContain(`"${key}" is "nonsense"; supported: `);
      } else if (entry.kind === "used") {
        const wrong = ["nonsense", -1.5, [[]], {}].find((value) => entry.refuse(value) !== undefined);
        if (wrong === undefined) continue;
        const [code, message] = codeAndMessage(() => {
          configure({ ...base, [key]: wrong });
          readGeneral({ [key]: wrong });
        });
        expect([key, code]).toEqual([key, "bad-config"]);
        expect(message).toContain(`"${key}" is `);
      }
    }
  });

  test("has inert keys that change nothing", async () => {
    const { ledger, configure } = await find();
    const plain = comparable(configure(base));
    for (const [key, entry] of Object.entries(ledger)) {
      if (entry.kind === "inert")
        expect([key, comparable(configure({ ...base, [key]: "anything" }))]).toEqual([key, plain]);
      if (entry.kind === "elsewhere") expect(existsSync(source(entry.where))).toBe(true);
    }
  });

  test("warns of a key that it does not have, with the nearest that it has", async () => {
    const { configure } = await find();
    const warnings: ConfigWarning[] = [];
    configure({ ...base, initializer_rnge: 1, flux: true, gone: null }, { unknown: (one) => void warnings.push(one) });
    expect(warnings.map(({ key, nearest }) => [key, nearest])).toEqual([
      ["initializer_rnge", "initializer_range"],
      ["flux", undefined],
    ]);
  });
});

describe("keys of rotary positions", () => {
  test.each(Object.entries(known.rope))("%s has those of transformers", (type, keys) => {
    const common = ["type", "partial_rotary_factor", "full_attention", "sliding_attention"];
    expect(
      Object.keys(ropeLedgers[type] ?? {})
        .filter((key) => !common.includes(key))
        .sort(),
    ).toEqual([...keys].sort());
  });

  test("every key of every type is read", async () => {
    const { configure } = await findArchitecture({ model_type: "llama" }, "");
    const read = new Set<string>();
    for (const sample of samples["llama"] ?? []) configure(sample, { read: (key) => void read.add(key) });
    const inner = new Set(
      Object.values(ropeLedgers).flatMap((ledger) =>
        Object.entries(ledger)
          .filter(([, { kind }]) => kind === "used")
          .map(([key]) => `rope_scaling.${key}`),
      ),
    );
    for (const name of ["rope_type", "type"]) inner.delete(`rope_scaling.${name}`); // read to choose the ledger
    expect([...inner].filter((key) => !read.has(key))).toEqual([]);
  });

  test("a key of another type is a warning with its place", async () => {
    const { configure } = await findArchitecture({ model_type: "llama" }, "");
    const warnings: ConfigWarning[] = [];
    configure(
      { rope_scaling: { type: "linear", factor: 2, beta_fast: 3 } },
      { unknown: (one) => void warnings.push(one) },
    );
    expect(warnings.map(({ key }) => key)).toEqual(["rope_scaling.beta_fast"]);
  });
});

test("every activation function of transformers is known, but for those with weights of their own", () => {
  expect(known.activations.filter((name) => !Object.hasOwn(activationNames, name))).toEqual([
    "prelu",
    "sqrtsoftplus", // of routers alone
    "xielu",
  ]);
});

test("one setting under two names must have one value", async () => {
  const { configure } = await findArchitecture({ model_type: "gpt2" }, "");
  expect(comparable(configure({ hidden_size: 24 }))).toBe(comparable(configure({ n_embd: 24 })));
  const [, message] = codeAndMessage(() => configure({ hidden_size: 24, n_embd: 36 }));
  expect(message).toContain('"hidden_size" is 24 and "n_embd", the same setting, is 36');
});

// `sizes.ts` bounds numbers before anything reads them; `table.ts` finds the ledger.
test("config.json is read through ledgers alone", () => {
  const files = readdirSync(source("models")).filter(
    (name) => !/^(ledger|table|sizes|sentence-pooling)\.|\.test\.ts$/.test(name),
  );
  const reading = files.filter((name) => /\bjson(\[|\.\w+ )/.test(readFileSync(source(`models/${name}`), "utf8")));
  expect(reading).toEqual([]);
});

function source(path: string): string {
  return fileURLToPath(new URL(`../src/${path}`, import.meta.url));
}
