import { nearest, TuneError } from "../errors.ts";
import {
  type ExampleKind,
  type Partition,
  parsePartition,
  shareByDirichlet,
  shareEvenly,
  type TokenizedExample,
} from "../train/data/index.ts";
import { tasks } from "../train/tasks/index.ts";
import { type LoadDataOptions, type LoadedData, loadData } from "./load-data.ts";
import type { LoadedModel } from "./load-model.ts";

/** One client's data. */
export interface ClientData {
  readonly name: string;
  readonly train: readonly TokenizedExample[];
}

/** How data is read and shared out. */
export interface LoadClientsOptions extends LoadDataOptions {
  /** `dirichlet:0.5`, `by:<column>`, `files` or `iid`; `iid` unless given. */
  readonly split?: string;
  /** How many clients; with `by:` the largest groups, and all of them unless given; with `files` as many as there are files. */
  readonly clients?: number;
}

/** The data of a federation's clients, and what all are measured on. */
export interface LoadedClients {
  readonly clients: readonly ClientData[];
  readonly validation: readonly TokenizedExample[];
  readonly kind: ExampleKind;
  /** Groups of `by:` that no client has, with their numbers of examples. */
  readonly leftOut: Readonly<Record<string, number>>;
  /** What reading each file came to. */
  readonly read: readonly LoadedData[];
  readonly files: readonly string[];
}

/**
 * Read data and share it out among clients.
 * @throws {TuneError} `bad-option` for splits that do not fit the data; `split-impossible`; as {@link loadData}.
 */
export async function loadClients(
  model: LoadedModel,
  files: readonly string[],
  { split = "iid", clients, ...reading }: LoadClientsOptions = {},
): Promise<LoadedClients> {
  const partition = parsePartition(split);
  if (clients !== undefined && !(Number.isSafeInteger(clients) && clients >= 1)) {
    throw new TuneError("bad-option", `clients is ${clients}, but it must be a whole number from 1.`, {
      at: "clients",
    });
  }
  if (files.length === 0) throw new TuneError("bad-option", "There is no data.", { at: "data", fix: "name a file" });
  if (partition.by === "files" && clients !== undefined && clients !== files.length) {
    throw new TuneError("bad-option", `clients is ${clients}, but each of ${files.length} files is one client's.`, {
      at: "clients",
      fix: "leave it out, or split otherwise",
    });
  }
  const read: LoadedData[] = [];
  for (const file of files) read.push(await loadData(model, file, reading));
  const [first] = read as [LoadedData]; // one a file
  const other = read.findIndex(({ kind }) => kind !== first.kind);
  if (other > 0) {
    throw new TuneError("mixed-data-formats", `Rows of ${files[other]} become others than those of ${files[0]}.`, {
      at: "data",
      fix: "use files of one kind",
    });
  }
  const seed = reading.seed ?? 0;
  const all = read.flatMap(({ train }) => train);
  const shared = await shareOut(model, partition, { read, files, all, clients, seed, kind: first.kind, reading });
  return {
    ...shared,
    validation: reading.validationPath === undefined ? read.flatMap(({ validation }) => validation) : first.validation,
    kind: first.kind,
    read,
    files: [...new Set(read.flatMap((data) => data.files ?? []))],
  };
}

interface Shared {
  readonly read: readonly LoadedData[];
  readonly files: readonly string[];
  readonly all: readonly TokenizedExample[];
  readonly clients: number | undefined;
  readonly seed: number;
  readonly kind: ExampleKind;
  readonly reading: LoadDataOptions;
}

async function shareOut(
  model: LoadedModel,
  partition: Partition,
  { read, files, all, clients, seed, kind, reading }: Shared,
): Promise<Pick<LoadedClients, "clients" | "leftOut">> {
  if (partition.by === "files") {
    const groups = read.map(({ train }, i): [string, readonly TokenizedExample[]] => [baseName(files[i] ?? ""), train]);
    return { clients: named(groups), leftOut: {} };
  }
  if (partition.by === "column") {
    const groups = new Map<string, TokenizedExample[]>();
    for (const [i, { train }] of read.entries()) {
      const values = await columnOf(model, files[i] ?? "", partition.column, reading);
      for (const example of train) {
        const value = values.get(example.line) ?? "";
        groups.set(value, [...(groups.get(value) ?? []), example]);
      }
    }
    const sorted = [...groups].sort(([a, x], [b, y]) => y.length - x.length || (a < b ? -1 : 1));
    const kept = sorted.slice(0, clients ?? sorted.length);
    if (kept.length < (clients ?? 0)) {
      throw new TuneError("split-impossible", `There are ${kept.length} groups for ${clients} clients.`, {
        at: `by:${partition.column}`,
        fix: `use ${kept.length} clients, or leave the number out`,
      });
    }
    const leftOut = Object.fromEntries(sorted.slice(kept.length).map(([value, { length }]) => [value, length]));
    return { clients: named(kept), leftOut };
  }
  if (clients === undefined) {
    throw new TuneError("bad-option", "The number of clients is missing.", {
      at: "clients",
      fix: "say how many, or split by:<column> or by files",
    });
  }
  const parts =
    partition.by === "iid"
      ? shareEvenly(all.length, clients, seed)
      : shareByDirichlet(labelsOf(all, kind), { clients, seed, concentration: partition.concentration });
  if (parts.some(({ length }) => length === 0)) {
    throw new TuneError("split-impossible", `${all.length} examples are not enough for ${clients} clients.`, {
      at: "clients",
      fix: "use fewer clients, or more data",
    });
  }
  const digits = String(clients).length;
  const groups = parts.map((part, k): [string, readonly TokenizedExample[]] => [
    `client-${String(k + 1).padStart(digits, "0")}`,
    part.map((i) => all[i] as TokenizedExample), // indices of examples
  ]);
  return { clients: named(groups), leftOut: {} };
}

/** The label of every example. @throws {TuneError} `bad-option` where examples have none. */
function labelsOf(all: readonly TokenizedExample[], kind: ExampleKind): readonly number[] {
  if (kind === "label") return all.map(({ answers }) => answers?.[0] ?? 0);
  throw new TuneError("bad-option", "A Dirichlet split goes by labels, and these examples have no one label each.", {
    at: "split",
    fix: "use by:<column>, files or iid",
  });
}

/** What a column of the rows says, by line. @throws {TuneError} `bad-option` where rows have no such column. */
async function columnOf(
  model: LoadedModel,
  file: string,
  column: string,
  { columns = {}, skipBadRows = false }: LoadDataOptions,
): Promise<ReadonlyMap<number, string>> {
  const task = tasks[model.pretrained.task];
  const { rows } = await task.read(model.platform.storage, file, { columns, skipBadRows });
  const known = [...new Set(rows.flatMap(({ value }) => Object.keys(value)))];
  const without = rows.find(({ value }) => !["string", "number", "boolean"].includes(typeof value[column]));
  if (without) {
    const near = nearest(column, known, 1)[0];
    throw new TuneError("bad-option", `A row has no word or number in the column "${column}".`, {
      at: `${file}, line ${without.line}`,
      fix: `its columns: ${known.join(", ")}${near ? ` (nearest: ${near})` : ""}`,
    });
  }
  return new Map(rows.map(({ line, value }) => [line, String(value[column])]));
}

/** Names that can be parts of paths and subjects, each another. */
function named(groups: readonly (readonly [string, readonly TokenizedExample[]])[]): readonly ClientData[] {
  const taken = new Set<string>();
  return groups.map(([value, train]) => {
    const plain = value
      .normalize("NFKD")
      .replace(/[^\w-]+/g, "-")
      .replace(/^-+|-+$/g, "")
      .slice(0, 48);
    const stem = plain === "" ? "client" : plain;
    let name = stem;
    for (let i = 2; taken.has(name.toLowerCase()); i++) name = `${stem}-${i}`;
    taken.add(name.toLowerCase());
    return { name, train };
  });
}

function baseName(path: string): string {
  return (path.split(/[\\/]/).at(-1) ?? path).replace(/\.[^.]*$/, "");
}
