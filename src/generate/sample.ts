import { TuneError } from "../errors.ts";
import type { Rng } from "../linalg/index.ts";

/** How the next token is chosen from the logits. */
export interface SampleOptions {
  /** 0 always takes the likeliest token (greedy); 1 samples from the model's own distribution. */
  readonly temperature: number;
  /** Only the likeliest `topK` tokens; 0 keeps all. */
  readonly topK: number;
  /** Only the likeliest tokens that together reach this probability; 1 keeps all. Holtzman et al. 2020 (arXiv 1904.09751). */
  readonly topP: number;
  /** Only tokens at least this likely relative to the likeliest; 0 keeps all. Nguyen et al. 2024 (arXiv 2407.01082). */
  readonly minP: number;
  /** Logits of tokens already seen are divided (or multiplied, when negative) by this. Keskar et al. 2019 (arXiv 1909.05858). */
  readonly repetitionPenalty: number;
}

/** Greedy decoding. */
export const sampleDefaults: SampleOptions = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };

/**
 * Fill in defaults and check.
 * @throws {TuneError} `bad-option` listing every problem: values out of range, and options that would do nothing because
 * nothing is sampled.
 */
export function resolveSampling(given: Partial<SampleOptions> & { readonly seed?: number }): SampleOptions {
  const asked = Object.entries(given).filter(([, value]) => value !== undefined);
  const options: SampleOptions = { ...sampleDefaults, ...Object.fromEntries(asked) };
  const problems: string[] = [];
  const check = (name: keyof SampleOptions, ok: boolean, rule: string): void => {
    if (!Number.isFinite(options[name]) || !ok) problems.push(`${name} is ${options[name]}, but it must be ${rule}`);
  };
  check("temperature", options.temperature >= 0, "0 or more");
  check("topK", Number.isSafeInteger(options.topK) && options.topK >= 0, "a whole number from 0");
  check("topP", options.topP > 0 && options.topP <= 1, "more than 0 and at most 1");
  check("minP", options.minP >= 0 && options.minP <= 1, "from 0 to 1");
  check("repetitionPenalty", options.repetitionPenalty > 0, "more than 0");
  if (options.temperature === 0) {
    const { repetitionPenalty: _acts, temperature: _chosen, ...sampled } = { ...sampleDefaults, seed: 0 };
    for (const [name, inert] of Object.entries(sampled)) {
      const value = given[name as keyof typeof sampled]; // its keys
      if (value !== undefined && value !== inert)
        problems.push(`${name} is ${value}, which would do nothing: temperature is 0, so the likeliest token is taken`);
    }
  }
  if (problems.length > 0)
    throw new TuneError("bad-option", problems, { at: "sampling", fix: "change the values named above" });
  return options;
}

/**
 * Choose the next token. logits [vocab] are not changed; `seen` are the tokens so far. Ties go to the lower id.
 * @throws {TuneError} `not-finite-logits` when no token has a finite score.
 */
export function sampleToken(logits: Float32Array, seen: Iterable<number>, options: SampleOptions, rng: Rng): number {
  const scores = penalised(logits, seen, options.repetitionPenalty);
  const best = argMax(scores);
  const top = scores[best] ?? Number.NaN;
  if (!Number.isFinite(top)) {
    throw new TuneError("not-finite-logits", `The model's largest score is ${top}.`, {
      at: "generation",
      fix: "the weights are damaged or training diverged: use an earlier checkpoint",
    });
  }
  if (options.temperature === 0) return best;
  const order = Array.from(scores.keys()).sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  const kept = options.topK > 0 ? order.slice(0, options.topK) : order;
  const likelihood = kept.map((id) => Math.exp(((scores[id] ?? 0) - top) / options.temperature));
  let count = likelihood.length;
  if (options.minP > 0) count = likelihood.filter((p) => p >= options.minP).length; // sorted, and the first is 1
  const total = likelihood.slice(0, count).reduce((sum, p) => sum + p, 0);
  let mass = 0;
  for (let i = 0; i < count; i++) {
    mass += likelihood[i] ?? 0;
    if (mass >= options.topP * total) {
      count = i + 1;
      break;
    }
  }
  let left = rng.uniform() * likelihood.slice(0, count).reduce((sum, p) => sum + p, 0);
  for (let i = 0; i < count; i++) {
    left -= likelihood[i] ?? 0;
    if (left < 0) return kept[i] ?? best;
  }
  return kept[count - 1] ?? best;
}

function penalised(logits: Float32Array, seen: Iterable<number>, penalty: number): Float32Array {
  if (penalty === 1) return logits;
  const scores = logits.slice();
  for (const id of new Set(seen)) {
    const score = scores[id];
    if (score !== undefined) scores[id] = score > 0 ? score / penalty : score * penalty;
  }
  return scores;
}

function argMax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if ((scores[i] ?? 0) > (scores[best] ?? 0)) best = i;
  return best;
}
