import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type LoadedClients, type LoadedModel, loadClients, loadModel, type TaskName } from "../../src/index.ts";
import { openSafetensors, writeSafetensors } from "../../src/io/safetensors.ts";
import { createRng } from "../../src/linalg/index.ts";
import { nodePlatform } from "../../src/runtime/node.ts";

/** A data set, the model that is tuned on it, and how a federation of it is laid out. */
export interface Source {
  readonly title: string;
  /** What is measured besides the loss; undefined where the loss is all. */
  readonly measure: "accuracy" | undefined;
  readonly clients: number;
  readonly clientsPerRound: number;
  readonly rounds: number;
  /** Updates of a client in a round. */
  readonly localSteps: number;
  readonly batchSize: number;
  readonly split: string;
  readonly targets: readonly string[];
  /** Rates that every method sweeps, without and with privacy. */
  readonly rates: { readonly plain: readonly number[]; readonly private: readonly number[] };
}

const classified = {
  measure: "accuracy",
  batchSize: 128,
  rounds: 5,
  localSteps: 2,
  targets: ["gau_layers.1.proj1", "gau_layers.1.proj2"],
  rates: { plain: [0.5, 1.5], private: [0.5, 1.5] },
} as const;

/** Every data set by its name in the raw lines. */
export const sources: Readonly<Record<string, Source>> = {
  clinc150: {
    ...classified,
    ...{ title: "CLINC150, a domain a client", split: "by:client", clients: 10, clientsPerRound: 4 },
  },
  "banking77-0.5": {
    ...classified,
    ...{ title: "Banking77, Dirichlet 0.5", split: "dirichlet:0.5", clients: 6, clientsPerRound: 3 },
  },
  "banking77-0.1": {
    ...classified,
    ...{ title: "Banking77, Dirichlet 0.1", split: "dirichlet:0.1", clients: 6, clientsPerRound: 3 },
  },
  shakespeare: {
    ...{ title: "Tiny Shakespeare, a speaker a client", measure: undefined, split: "by:client" },
    ...{ clients: 8, clientsPerRound: 3, rounds: 8, localSteps: 4, batchSize: 16, targets: ["q_proj", "v_proj"] },
    rates: { plain: [0.5, 1.5], private: [0.15, 0.5, 1.5] },
  },
};

/** How long a data set's federations are: rounds, updates of a client in one, and examples of an update. */
export function sizeOf({ rounds, localSteps, batchSize }: Source): string {
  return [rounds, localSteps, batchSize].join("x");
}

/** Rows that are held back: half of them choose the rates, and the tables are of the other half. */
const heldBack = 400;

type Row = Readonly<Record<string, string>>;

async function rowsOf(name: string, shared: string): Promise<readonly Row[]> {
  const read = (path: string): Promise<string> => readFile(join(shared, "data", path), "utf8");
  if (name === "shakespeare") {
    return (await read("tinyshakespeare/input.txt")).split(/\n\n+/).flatMap((speech) => {
      const [, client, said] = /^([^\n:]+):\n([\s\S]+)$/.exec(speech.trim()) ?? [];
      return client && said ? [{ text: said.replace(/\s+/g, " "), client }] : [];
    });
  }
  if (name === "clinc150") {
    const domains = JSON.parse(await read("clinc150/domains.json")) as Readonly<Record<string, readonly string[]>>;
    const { train } = JSON.parse(await read("clinc150/train_val.json")) as {
      readonly train: readonly (readonly [text: string, label: string])[];
    };
    const domainOf = new Map(Object.entries(domains).flatMap(([domain, all]) => all.map((one) => [one, domain])));
    return train.map(([text, label]) => ({ text, label, client: domainOf.get(label) ?? "none" }));
  }
  const lines = (await read("banking77/train.csv")).trim().split("\n").slice(1);
  return lines.flatMap((line) => {
    const [, text, label] = /^"?(.*?)"?,([a-zA-Z_?]+)\r?$/.exec(line) ?? [];
    return text && label ? [{ text: text.replaceAll('""', '"'), label }] : [];
  });
}

const characters = 64;

/**
 * RETSim for 64 characters instead of 512, which most rows do not reach: a row costs an eighth. Its encoding of positions is a
 * sum over frequencies; every eighth of them stands for eight. Scores are divided by 512 as before.
 */
async function shortRetsim(shared: string, scratch: string): Promise<string> {
  const folder = join(scratch, `retsim-${characters}`);
  await mkdir(folder, { recursive: true });
  const { storage } = nodePlatform;
  const { tensors } = await openSafetensors(storage, join(shared, "models/retsim/model.safetensors"));
  const entries = [];
  for (const [name, lazy] of tensors) {
    const { shape, data } = await lazy.read();
    const every = 512 / characters;
    const values = Array.from(data as Float32Array, Number);
    const cut = /positional_encoding\.[ab]$/.test(name)
      ? values.filter((_, i) => i % every === 0).map((value) => value * (name.endsWith("b") ? every : 1))
      : /\.(gamma|beta)$/.test(name)
        ? values.map((value, i) => (i < values.length / 2 ? value / every : value)) // of queries, then of keys
        : values;
    const sides = cut.length === values.length ? shape : [cut.length];
    entries.push({ name, tensor: { dtype: "float32", shape: sides, data: Float32Array.from(cut) } as const });
  }
  await writeSafetensors(storage, join(folder, "model.safetensors"), entries);
  await writeFile(join(folder, "config.json"), `{"model_type": "retsim", "max_position_embeddings": ${characters}}`);
  return folder;
}

/** A data set with its model, shared out among clients, and the two halves of what is held back. */
export interface OpenedSource {
  readonly model: LoadedModel;
  readonly data: LoadedClients;
  readonly choosing: LoadedClients["validation"];
  readonly testing: LoadedClients["validation"];
}

/** Read a data set; what is made of it and of its model goes to `scratch`. */
export async function openSource(
  name: string,
  { shared, scratch }: { readonly shared: string; readonly scratch: string },
): Promise<OpenedSource> {
  const source = sources[name];
  if (!source) throw new Error(`there is no ${name}: ${Object.keys(sources).join(", ")}`);
  await mkdir(scratch, { recursive: true });
  const rows = await rowsOf(name, shared);
  const file = join(scratch, `${name}.jsonl`);
  const mixed = createRng(0, "rows").shuffle(rows.map((_, i) => i));
  await writeFile(file, mixed.map((i) => `${JSON.stringify(rows[i])}\n`).join(""));
  const task: TaskName = "sequence-classification";
  const model = source.measure
    ? await loadModel(await shortRetsim(shared, join(scratch, name)), {
        platform: nodePlatform,
        task,
        labelsFrom: file,
      })
    : await loadModel(join(shared, "models/stories260k"), { platform: nodePlatform });
  const data = await loadClients(model, [file], {
    ...{ split: source.split, clients: source.clients, validation: heldBack },
    ...(source.measure ? {} : { maxLength: 32 }),
  });
  const order = createRng(0, "held back").shuffle([...data.validation]);
  const half = Math.min(heldBack / 2, order.length / 2);
  return { model, data, choosing: order.slice(0, half), testing: order.slice(half, 2 * half) };
}
