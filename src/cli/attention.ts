import type { AttentionPlan, LoadedModel, Storage } from "../index.ts";
import type { Output } from "./output.ts";

/**
 * What `--attention` says: one of some words, or the plan of a file.
 * @throws {TuneError} `bad-option`, `file-not-found`, `malformed-json`.
 */
export async function attentionOf<Word extends string>(
  given: string,
  { storage, words }: { readonly storage: Storage; readonly words: readonly Word[] },
): Promise<Word | AttentionPlan> {
  const { readPlan, TuneError } = await import("../index.ts");
  const word = words.find((known) => known === given);
  if (word !== undefined) return word;
  const [, path] = /^polynomial:(.+)$/.exec(given) ?? [];
  if (path !== undefined) return readPlan(storage, path);
  throw new TuneError("bad-option", `--attention is "${given}", which is no way to attend here.`, {
    at: "--attention",
    fix: `give ${words.join(", ")} or polynomial:<plan>, the attention.json of scion diagnose --attention or of a run`,
  });
}

/** Say where an adapter was tuned with heads that attend by a polynomial: here they attend exactly. */
export async function tellOfPlan(model: LoadedModel, adapter: string, output: Output): Promise<void> {
  const { planFileOf } = await import("../index.ts");
  const path = await planFileOf(model, adapter);
  if (path === undefined) return;
  output.say(
    `${adapter} was tuned with heads that attend by a polynomial (${path}). Here and in exports all heads attend exactly.`,
    `  scion eval --attention polynomial:${path} says what the difference is.`,
  );
}
