/** A table of Markdown. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replace(/\|/g, "\\|")).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** A word or a value as code. */
export function code(text: string): string {
  return `\`${text}\``;
}

/** A page that a script makes: what it is about, then its parts. */
export function page(title: string, about: string, ...parts: readonly string[]): string {
  return `${[`# ${title}`, "<!-- made by npm run docs; edit the records in src, and what checks them in scripts/reference, instead -->", about, ...parts].join("\n\n")}\n`;
}
