import { TuneError } from "../errors.ts";

/** The error for what sentence-transformers' files ask for and is not built. */
export function unsupportedModule(at: string, what: string): TuneError {
  return new TuneError("unsupported-module", `The model's embeddings need ${what}, which is not built.`, {
    at,
    fix: "use a model of Transformer, Pooling, Dense and Normalize modules, pooled by cls, mean, max, mean_sqrt_len_tokens, weightedmean or lasttoken",
  });
}
