import { requestKey } from "./split.ts";

/**
 * The requests whose words stand, in their order and next to each other, anywhere in the documents; letter case and
 * punctuation are overlooked. Empty when documents and requests share nothing.
 */
export function sharedRequests(requests: Iterable<string>, documents: Iterable<string>): string[] {
  const byStart = new Map<string, string[]>();
  for (const request of requests) {
    const key = requestKey(request);
    const start = key.split(" ").slice(0, 3).join(" ");
    byStart.set(start, [...(byStart.get(start) ?? []), key]);
  }
  const shared = new Set<string>();
  for (const document of documents) {
    const words = requestKey(document).split(" ");
    for (let i = 0; i < words.length; i++) {
      for (const length of [1, 2, 3]) {
        for (const key of byStart.get(words.slice(i, i + length).join(" ")) ?? []) {
          const count = key.split(" ").length;
          if (words.slice(i, i + count).join(" ") === key) shared.add(key);
        }
      }
    }
  }
  return [...shared];
}
