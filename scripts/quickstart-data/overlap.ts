import { requestKey } from "./split.ts";

/**
 * A search for the requests whose words stand, in their order and next to each other, anywhere in a text; letter case
 * and punctuation are overlooked. The search returns the keys of the requests found, none when they share nothing.
 */
export function requestFinder(requests: Iterable<string>): (text: string) => string[] {
  const byStart = new Map<string, string[]>();
  for (const request of requests) {
    const key = requestKey(request);
    const start = key.split(" ").slice(0, startWords).join(" ");
    byStart.set(start, [...(byStart.get(start) ?? []), key]);
  }
  return (text) => {
    const words = requestKey(text).split(" ");
    const found = words.flatMap((_, at) => {
      const rest = words.slice(at, at + longestRequest);
      const starts = Array.from({ length: startWords }, (_, i) => rest.slice(0, i + 1).join(" "));
      const candidates = [...new Set(starts)].flatMap((start) => byStart.get(start) ?? []);
      return candidates.filter((key) => `${rest.join(" ")} `.startsWith(`${key} `));
    });
    return [...new Set(found)];
  };
}

const startWords = 3; // a request is looked up by its first words, or by all of them when it has fewer
const longestRequest = 40; // words; longer than any request that the templates can make
