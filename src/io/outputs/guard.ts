import { TuneError } from "../../errors.ts";
import { joinPath, type OutputGuard, type Storage } from "../storage.ts";

/** A storage for what one command writes: it knows what is read besides, which stays as it is. */
export function guardOutputs(storage: Storage, guard: Partial<Pick<OutputGuard, "inputs" | "replace">>): Storage {
  const inputs = [...(storage.guard?.inputs ?? []), ...(guard.inputs ?? [])];
  const whole: OutputGuard = {
    inputs,
    replace: guard.replace ?? storage.guard?.replace ?? false,
    behind: storage.guard?.behind ?? storage,
  };
  let known: Promise<readonly string[]> | undefined;
  const read = (): Promise<readonly string[]> => {
    known ??= readPaths(storage, inputs);
    return known;
  };
  const refuse = async (path: string): Promise<void> => refuseInput(await storage.resolve(path), await read(), path);
  return {
    ...storage,
    guard: whole,
    write: async (path, content, options) => {
      await refuse(path);
      await storage.write(path, content, options);
    },
    append: async (path, content) => {
      await refuse(path);
      await storage.append(path, content);
    },
    rename: async (from, to) => {
      await refuse(from);
      await refuse(to);
      await storage.rename(from, to);
    },
    remove: async (path) => {
      await refuse(path);
      await storage.remove(path);
    },
  };
}

/** How to mend an output that would touch an input. */
export const apart = "choose an output apart from the model, the adapter and the data";

/** The real paths of inputs, and of the files in a folder of them, which may be links to elsewhere. */
export async function readPaths(storage: Storage, inputs: readonly string[]): Promise<readonly string[]> {
  const paths: string[] = [];
  for (const input of new Set(inputs)) {
    paths.push(await storage.resolve(input));
    for (const name of await storage.list(input)) {
      if (!name.endsWith("/")) paths.push(await storage.resolve(joinPath(input, name)));
    }
  }
  return paths;
}

/** @throws {TuneError} `output-is-input` when something that is read is, or lies in, what would be changed. */
export function refuseInput(path: string, inputs: readonly string[], named: string): void {
  const input = inputs.find((read) => read === path || isInside(read, path));
  if (input === undefined) return;
  const what = input === path ? `${named} is read here` : `${named} holds ${input}, which is read here`;
  throw new TuneError("output-is-input", `${what}: nothing is written over it.`, {
    at: named,
    fix: apart,
  });
}

/** Whether a real path lies in a folder. */
export function isInside(path: string, folder: string): boolean {
  return (
    folder === "" || path.startsWith(/[\\/]$/.test(folder) ? folder : `${folder}/`) || path.startsWith(`${folder}\\`)
  );
}
