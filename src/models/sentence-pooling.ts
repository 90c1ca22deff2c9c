import type { JsonObject } from "../io/json.ts";
import { unsupportedModule } from "./sentence-refusal.ts";

/** How the hidden states of a text's tokens become one embedding, in the order in which several are laid end to end. */
export const poolings = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] as const;

/** One way of pooling, as sentence-transformers names it. */
export type Pooling = (typeof poolings)[number];

/** Keys that switch a way of pooling on. */
const switches: Readonly<Record<string, Pooling>> = {
  pooling_mode_cls_token: "cls",
  pooling_mode_max_tokens: "max",
  pooling_mode_mean_tokens: "mean",
  pooling_mode_mean_sqrt_len_tokens: "mean_sqrt_len_tokens",
  pooling_mode_weightedmean_tokens: "weightedmean",
  pooling_mode_lasttoken: "lasttoken",
};

/** Keys that change nothing at these values. */
const inert: Readonly<Record<string, (value: unknown) => boolean>> = {
  word_embedding_dimension: () => true,
  embedding_dimension: () => true,
  include_prompt: (value) => value === true,
  lmk_token_id: () => true, // of landmark pooling, which is refused by its switch
};

/**
 * The ways of pooling that the configuration of a Pooling module asks for, in the order of their outputs. As in
 * sentence-transformers, tokens are averaged unless `pooling_mode_mean_tokens` is false, also beside another way.
 * @throws {TuneError} `unsupported-module` naming what is not built.
 */
export function poolingsOf(json: JsonObject, at: string): readonly Pooling[] {
  const strange = Object.entries(json).filter(
    ([key, value]) =>
      key !== "pooling_mode" && !inert[key]?.(value) && !(Object.hasOwn(switches, key) && typeof value === "boolean"),
  );
  // A switch that is off asks for nothing, known or not.
  const asked = strange.filter(([key, value]) => value !== false || Object.hasOwn(inert, key));
  if (asked.length > 0)
    throw unsupportedModule(at, asked.map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(", "));
  const mode = json["pooling_mode"];
  if (mode !== undefined && mode !== null) return [named(mode, at)]; // it says all, whatever the switches say
  const on = Object.entries(switches).filter(([key, way]) => json[key] ?? way === "mean");
  if (on.length === 0) throw unsupportedModule(at, "a way of pooling, of which none is on");
  return poolings.filter((way) => on.some(([, chosen]) => chosen === way));
}

function named(mode: unknown, at: string): Pooling {
  const found = poolings.find((way) => typeof mode === "string" && way === mode.toLowerCase());
  if (found === undefined) throw unsupportedModule(at, `pooling_mode ${JSON.stringify(mode)}`);
  return found;
}
