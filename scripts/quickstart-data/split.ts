import { createRng } from "../../src/linalg/rng.ts";
import { pick } from "./grammar.ts";
import { type Callable, callables, makeRequest, type Request } from "./requests.ts";

/** Names that no training request holds, so that the held-out score also counts names never tuned on. */
export const reservedNames: readonly string[] = [
  ...["Hugo", "Fatima", "Teresa", "Walter", "Lisbon", "Nairobi", "Osaka", "Denver", "attic", "pantry"],
  ...["The Paper Boats", "Nico Bell", "swing", "Sakura", "The Oak Room", "Finnish", "Turkish"],
  ...["nice to meet you", "one coffee please"],
];

const withoutReserved = new RegExp(`^(?!.*\\b(${reservedNames.join("|")})\\b)`);

/** Requests with the same key count as one: letter case and punctuation tell none apart. */
export function requestKey(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, " ")
    .trim();
}

/** The task's data: no two requests in it have the same key, and every function is asked for equally often. */
export interface TaskData {
  readonly train: readonly Request[];
  readonly heldout: readonly Request[];
}

/**
 * Draw the held-out requests first, half of them in ways that training never shows, then training requests that are
 * neither are among them nor hold a reserved name.
 */
export function makeTaskData(seed: number, sizes: { train: number; heldout: number }): TaskData {
  const taken = new Set<string>();
  const draw = (name: string, count: number, ways: (c: Callable, cycle: number) => readonly string[], fits: RegExp) => {
    const rng = createRng(seed, "requests", name);
    const requests: Request[] = [];
    while (requests.length < count) {
      const callable = callables[requests.length % callables.length] ?? pick(rng, callables);
      const cycle = Math.floor(requests.length / callables.length);
      const request = makeRequest(rng, callable, ways(callable, cycle));
      const key = requestKey(request.text);
      if (taken.has(key) || !fits.test(request.text)) continue;
      taken.add(key);
      requests.push(request);
    }
    return rng.shuffle(requests);
  };
  const heldout = draw("heldout", sizes.heldout, (c, cycle) => (cycle % 2 === 0 ? c.ways : c.unseen), /./);
  const train = draw("train", sizes.train, (c) => c.ways, withoutReserved);
  return { train, heldout };
}
