import type { Cited } from "../methods/index.ts";

/** A BibTeX entry: `hu2021lora` for "Edward J. Hu and …", 2021, "LoRA: …". Surnames alone may have commas between. */
export function bibtex({ title, authors, year, arxiv }: Cited): string {
  const people = authors.includes(" and ") ? authors.split(" and ") : authors.split(", ");
  const surname = people[0]?.split(" ").at(-1) ?? "";
  const word = title.split(/[^\p{L}\p{N}]+/u).find((part) => part.length > 2) ?? "";
  const key = `${surname}${year}${word}`.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
  const fields = {
    title: `{${title}}`,
    author: people.join(" and "),
    year: String(year),
    eprint: arxiv,
    archivePrefix: "arXiv",
  };
  const lines = Object.entries(fields).map(([name, value]) => `  ${name.padEnd(13)} = {${value}}`);
  return `@misc{${key},\n${lines.join(",\n")}\n}`;
}
