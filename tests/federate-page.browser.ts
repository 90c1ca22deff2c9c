import { loadData, loadModel } from "../src/index.ts";
import type { Storage } from "../src/io/storage.ts";
import { packError, type WireError } from "../src/runtime/port.ts";
import { federate, opfsStorage, webPlatformOn } from "../src/web.ts";

type Method = Exclude<keyof Storage, "guard" | "diskPath">;

/** What a tab of `federate-page.test.ts` can be asked to do. */
export interface FederatePage {
  /** A method of a storage in the page: bytes as lists of numbers. Locks are kept by number, and released by it. */
  storage(root: string, method: Method | "release", args: readonly unknown[]): Promise<Answer>;
  /** Take part. @returns how it ended, and what is tuned, by name. */
  join(invitation: unknown, rows: string): Promise<{ readonly ended: string; readonly tuned: Tuned } | WireError>;
}

export type Answer =
  | { readonly value: unknown }
  | { readonly bytes: readonly number[] }
  | { readonly error: WireError };
export type Tuned = Readonly<Record<string, readonly number[]>>;

const locks: Awaited<ReturnType<Storage["lock"]>>[] = [];

const page: FederatePage = {
  storage: async (root, method, args) => {
    try {
      if (method === "release") return { value: await locks[Number(args[0])]?.release() };
      const given = args.map((each) => (isBytes(each) ? Uint8Array.from(each.bytes) : each));
      const result = await (opfsStorage(root)[method] as (...all: readonly unknown[]) => Promise<unknown>)(...given);
      if (method === "lock") return { value: locks.push(result as (typeof locks)[number]) - 1 };
      return result instanceof Uint8Array ? { bytes: [...result] } : { value: result };
    } catch (error) {
      return { error: packError(error) };
    }
  },
  join: async (invitation, rows) => {
    const storage = opfsStorage();
    for (const name of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]) {
      const response = await fetch(`/model/${name}`);
      await storage.write(`model/${name}`, new Uint8Array(await response.arrayBuffer()));
    }
    await storage.write("rows.jsonl", rows);
    try {
      const model = await loadModel("model", { platform: webPlatformOn(storage) });
      const data = await loadData(model, "rows.jsonl", { validation: 0, maxLength: 48 });
      const { ended, adapter } = await federate(model, data, {
        invitation: invitation as Parameters<typeof federate>[2]["invitation"], // as the coordinator wrote it
        output: "mine",
        pollMs: 500,
        deviceOptions: { worker: false, threads: 1 },
      });
      const tuned = [...(adapter?.parameters ?? [])].map(
        ([name, { data: values }]) => [name, [...values].map(Number)] as const,
      );
      return { ended, tuned: Object.fromEntries(tuned) };
    } catch (error) {
      return packError(error);
    }
  },
};

function isBytes(value: unknown): value is { readonly bytes: readonly number[] } {
  return typeof value === "object" && value !== null && "bytes" in value;
}

Object.assign(globalThis, { scion: page });
