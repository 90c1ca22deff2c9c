/**
 * Control characters of ASCII and Latin-1, among them ESC and the one-byte CSI that begin a terminal's commands; separators of
 * lines and paragraphs; and what turns the direction of writing (embeddings, overrides, isolates), so that a text is shown as
 * another than it is.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what this is about
const controls = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** Text that a terminal only shows: control characters but tabs and line breaks are spelt `\u001b`. */
export function printable(text: string): string {
  return text.replace(controls, (character, at: number) =>
    character === "\n" || character === "\t" || (character === "\r" && text[at + 1] === "\n")
      ? character
      : spelt(character),
  );
}

/** The same on one line, for names: tabs and line breaks are spelt too. */
export function printableName(name: string): string {
  return name.replace(controls, spelt);
}

/** JSON as {@link JSON.stringify} writes it, with every control character escaped, so that a terminal may show it. */
export function printableJson(value: unknown): string {
  return JSON.stringify(value).replace(controls, spelt); // they are inside of its strings
}

/** Text as it may stand in an SVG or HTML document, between tags or in a quoted attribute. */
export function escapeMarkup(text: string): string {
  return printable(text)
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

function spelt(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
